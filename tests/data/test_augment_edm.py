"""The EDM augmentation against the published pipeline."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment_edm
from tests.tools import golden_values

FIELDS = {
    "xflip": "flip_x",
    "yflip": "flip_y",
    "scale": "scale",
    "rotate": "rotation",
    "aniso_w": "stretch",
    "aniso_r": "stretch_angle",
    "translate_x": "shift_x",
    "translate_y": "shift_y",
}
LABEL_COLUMNS = {
    "xflip": slice(0, 1),
    "yflip": slice(1, 2),
    "scale": slice(2, 3),
    "rotate": slice(3, 5),
    "aniso": slice(5, 7),
    "translate": slice(7, 9),
    "all": slice(0, 9),
}
apply = jax.jit(augment_edm.apply)


@pytest.fixture(scope="module")
def golden():
    return golden_values.load("augment_edm")[1]


def fixed(count, **values):
    """Parameters that leave images alone, but for `values`."""
    zeros = {field: jnp.zeros(count) for field in FIELDS.values()}
    return augment_edm.AugmentParameters(**(zeros | values))


@pytest.mark.parametrize("case", list(LABEL_COLUMNS))
def test_golden(case, golden):
    given = {
        field: jnp.asarray(golden[f"{case}/param/{name}"])
        for name, field in FIELDS.items()
        if f"{case}/param/{name}" in golden
    }
    images = golden_values.nhwc(golden["in/images"])
    ours, labels = apply(images, fixed(len(images), **given))
    theirs = golden_values.nhwc(golden[f"{case}/images"])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        labels[:, LABEL_COLUMNS[case]], golden[f"{case}/labels"], rtol=0, atol=1e-6
    )


def test_nothing_drawn_changes_nothing(golden):
    images = golden_values.nhwc(golden["in/images"])
    ours, labels = apply(images, fixed(len(images)))
    np.testing.assert_allclose(ours, images, rtol=0, atol=5e-6)
    assert not labels.any()


def test_a_quarter_turn_of_a_smooth_image():
    # Rotation is about the centre of the padded grid, a quarter pixel off: smooth
    # images show the direction without that mattering.
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 16)[:, None, None], (16, 16, 1))[None]
    turned, _ = apply(ramp, fixed(1, rotation=jnp.full(1, math.pi / 2)))
    interior = np.asarray(turned)[0, 4:-4, 4:-4, 0]
    assert np.abs(np.diff(interior, axis=0)).max() < 0.02
    assert (np.abs(np.diff(interior, axis=1)) > 0.1).all()


def test_images_that_are_not_square_nor_rgb():
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 1))
    ours, _ = apply(images, fixed(2))
    np.testing.assert_allclose(ours, images, rtol=0, atol=5e-6)


def test_images_of_a_batch_are_independent(golden):
    images = golden_values.nhwc(golden["in/images"])
    drawn = augment_edm.parameters(jax.random.key(0), 6, 1.0)
    whole, labels = apply(images, drawn)
    assert np.isfinite(whole).all()
    only = jnp.arange(6) == 4
    others_left_alone = jax.tree.map(lambda value: jnp.where(only, value, 0), drawn)
    alone, label = apply(images, others_left_alone)
    np.testing.assert_array_equal(alone[4], whole[4])
    np.testing.assert_array_equal(label[4], labels[4])


def test_distribution_of_the_parameters():
    count, probability = 20_000, 0.12
    draw = jax.jit(augment_edm.parameters, static_argnums=1)
    drawn = draw(jax.random.key(0), count, probability)
    share = {
        field.name: float((getattr(drawn, field.name) != 0).mean())
        for field in dataclasses.fields(drawn)
    }
    expected = {name: probability for name in share}
    expected |= {"flip_x": 0.5, "flip_y": probability / 2, "stretch_angle": 0.5}
    assert share == pytest.approx(expected, abs=0.015)
    for name in ("scale", "stretch", "shift_x", "shift_y"):
        values = np.asarray(getattr(drawn, name))
        assert values[values != 0].std() == pytest.approx(1, abs=0.06)
    for name in ("rotation", "stretch_angle"):
        values = np.asarray(getattr(drawn, name))
        values = values[values != 0]
        assert values.std() == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
        assert np.abs(values).max() <= math.pi
    shifted = np.asarray(drawn.shift_x) != 0
    np.testing.assert_array_equal(shifted, np.asarray(drawn.shift_y) != 0)
    assert all(
        not np.asarray(value).any()
        for name, value in vars(draw(jax.random.key(1), 100, 0.0)).items()
        if name not in ("flip_x", "stretch_angle")
    )


def test_augment_draws_and_applies(golden):
    images = golden_values.nhwc(golden["in/images"])
    ours, labels = jax.jit(augment_edm.augment)(jax.random.key(3), images, 0.5)
    drawn = augment_edm.parameters(jax.random.key(3), 6, 0.5)
    theirs, their_labels = apply(images, drawn)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(labels, their_labels, rtol=0, atol=1e-6)
