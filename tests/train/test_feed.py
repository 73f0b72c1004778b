"""The batches of a training."""

import dataclasses

import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.runtime import parallel
from ddae_jax.train.feed import Feed


@pytest.mark.parametrize("resident", [True, False])
def test_the_host_knows_which_images_a_batch_has(resident):
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    source = data_source.from_arrays("x", "train", images, [0] * 5, ("a",))
    if not resident:
        source = dataclasses.replace(source, images=None, reader=source.read)
    feed = Feed(source, 8, 3, parallel.make_mesh(), threads=0)
    for step in range(3):
        batch, indices = feed.batch(step), feed.local_indices(step)
        np.testing.assert_array_equal(batch.indices, indices)
        np.testing.assert_array_equal(np.ravel(batch.images), indices)
