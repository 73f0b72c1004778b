"""P persons x K images: what a batch holds, whichever step is asked for first."""

import numpy as np
import pytest

from ddae_jax.data import person_synthetic
from ddae_jax.data.person_batches import PersonOrder
from ddae_jax.errors import UserError
from tests.tools import data_files


@pytest.fixture(scope="module")
def images():
    return person_synthetic.part("train", 4, people=data_files.PEOPLE)


def test_a_batch_holds_k_different_images_of_p_persons(images):
    order = PersonOrder(0, images, 4, 3)
    assert order.steps_per_epoch == 1
    for step in range(20):
        batch = order.batch(step)
        persons = images.source.labels[batch].reshape(4, 3)
        assert (persons == persons[:, :1]).all() and len(set(persons[:, 0])) == 4
        assert len(set(batch)) == 12


def test_batches_are_a_function_of_seed_and_step(images):
    order = PersonOrder(7, images, 2, 3)
    whole = np.concatenate([order.batch(step) for step in range(9)])
    np.testing.assert_array_equal(
        PersonOrder(7, images, 2, 3).indices(np.arange(54)), whole
    )
    np.testing.assert_array_equal(
        order.indices(np.array([50, 3, 20])), whole[[50, 3, 20]]
    )
    other = PersonOrder(8, images, 2, 3).indices(np.arange(54))
    assert (other != whole).any()


def test_an_epoch_holds_every_person_once(images):
    order = PersonOrder(0, images, 2, 2)
    assert order.steps_per_epoch == 3
    epochs = []
    for epoch in range(4):
        steps = range(3 * epoch, 3 * epoch + 3)
        batches = np.concatenate([order.batch(step) for step in steps])
        persons = images.source.labels[batches][::2]
        assert sorted(persons) == list(range(6))
        epochs.append(tuple(persons))
    assert len(set(epochs)) == 4


def test_too_few_images_are_repeated_where_that_is_asked_for(images):
    with pytest.raises(
        UserError,
        match=r"config\.reid\.images_each: 6, but person 0001 has 4 images \(0001_c1",
    ):
        PersonOrder(0, images, 2, 6)
    batch = PersonOrder(0, images, 2, 6, repeat=True).batch(0).reshape(2, 6)
    for own in batch:
        assert len(set(own[:4])) == 4 and set(own[4:]) < set(own[:4])


def test_what_cannot_be_drawn_is_one_line(images):
    with pytest.raises(UserError, match=r"config\.reid\.persons: 7 of the 6 persons"):
        PersonOrder(0, images, 7, 2)
    single = images.subset(np.array([0, 1, 4, 8, 9]))
    with pytest.raises(UserError, match=r"0002_c1\S+: the only training image of pers"):
        PersonOrder(0, single, 2, 2, repeat=True)
