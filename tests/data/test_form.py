"""What rows of a set are: images as they were, or moments that latents are drawn of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment
from ddae_jax.data.form import IMAGES, MomentForm, normalised, restored
from ddae_jax.errors import UserError

FORM = MomentForm(True, "float16", (2.0, 0.5), (1.0, -1.0), "someone's")


@pytest.fixture(scope="module")
def rows():
    """4,000 times one image of two positions; the mirrored copy is 10 higher."""
    mean = np.array([[1.0, 2.0], [3.0, -4.0]])
    std = np.array([[0.5, 0.0], [2.0, 1.0]])
    row = np.concatenate([mean, std], axis=-1)[None, :, None, :]  # (copies, 2, 1, 4)
    mirrored = np.concatenate([mean + 10, std], axis=-1)[None, :, None, :]
    row = np.concatenate([row, mirrored]).astype(np.float16)
    return jnp.asarray(np.repeat(row[None], 4000, axis=0)), mean, std


def test_draws_have_the_moments_of_the_normalised_posterior(rows):
    rows, mean, std = rows
    scale, shift = np.array(FORM.scale), np.array(FORM.shift)
    drawn = np.asarray(FORM.drawn(jax.random.key(0), rows, None))
    assert drawn.shape == (4000, 2, 1, 2) and drawn.dtype == np.float32
    wanted, spread = (mean - shift) * scale, std * scale
    np.testing.assert_allclose(drawn.mean(0)[:, 0], wanted, atol=0.2)
    np.testing.assert_allclose(drawn.std(0)[:, 0], spread, rtol=0.05)
    assert np.ptp(drawn[..., 0, 0, 1]) == 0  # no deviation, no draw


def test_a_draw_is_of_the_key_and_the_position(rows):
    one = FORM.drawn(jax.random.key(0), rows[0], None)
    np.testing.assert_array_equal(one, FORM.drawn(jax.random.key(0), rows[0], None))
    other = FORM.drawn(jax.random.key(1), rows[0], None)
    assert np.all(np.asarray(one != other)[..., 0])
    assert len(np.unique(np.asarray(one)[:, 0, 0, 0])) > 3900


def test_flips_choose_the_mirrored_copy(rows):
    flipped = jnp.arange(4000) % 2 == 1
    drawn = np.asarray(FORM.drawn(jax.random.key(0), rows[0], flipped))
    plain = np.asarray(FORM.drawn(jax.random.key(0), rows[0], None))
    difference = (drawn - plain) / np.array(FORM.scale)
    np.testing.assert_allclose(difference[::2], 0)
    np.testing.assert_allclose(difference[1::2], 10, rtol=1e-3)


def test_the_other_draw_is_flipped_by_coins_of_its_own(rows):
    another = np.asarray(FORM.another(jax.random.key(0), rows[0], True))
    certain = another[:, 0, 0, 1]  # of no deviation: 1.5, or 6.5 in the mirrored copy
    assert set(np.unique(certain)) == {1.5, 6.5}
    assert 0.45 < (certain == 6.5).mean() < 0.55
    still = np.asarray(FORM.another(jax.random.key(0), rows[0], False))
    assert set(np.unique(still[:, 0, 0, 1])) == {1.5}


def test_who_draws_nothing_gets_the_mean(rows):
    rows, mean, _ = rows
    found = FORM.still(np.asarray(rows[:3]))
    wanted = (mean - np.array(FORM.shift)) * np.array(FORM.scale)
    np.testing.assert_allclose(found[1, :, 0], wanted)
    assert found.shape == (3, 2, 1, 2) and found.dtype == np.float32


@pytest.mark.parametrize("scale, shift", [(0.18215, ()), ((2.0, 3.0), (0.5, -7.0))])
def test_normalised_latents_are_restored(scale, shift):
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 2)))
    x0 = normalised(latents, scale, shift)
    wanted = (np.asarray(latents) - np.array(shift or 0)) * np.array(scale)
    np.testing.assert_allclose(x0, wanted, rtol=1e-5)
    np.testing.assert_allclose(restored(x0, scale, shift), latents, rtol=1e-5)


def test_images_pass_as_they_are():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 2, 3, 1)))
    images = images.astype(jnp.uint8)
    key = jax.random.key(0)
    assert IMAGES.drawn(key, images, None) is images
    assert IMAGES.another(key, images, True) is images
    assert IMAGES.still(images) is images and IMAGES.facts == {}
    flipped = jnp.array([True, False, True, False])
    found = IMAGES.drawn(key, images, flipped)
    np.testing.assert_array_equal(found[::2], images[::2, :, ::-1])
    np.testing.assert_array_equal(found[1::2], images[1::2])


def test_floats_are_not_scaled_again():
    x0 = jnp.array([[[[3.0, -200.0]]]])
    np.testing.assert_array_equal(augment.to_float(x0), x0)


def test_what_latents_cannot_have_is_said():
    plain = MomentForm(False, "float16", 1.0, (), "someone's")
    with pytest.raises(UserError, match=r"config\.train\.flip: .*config\.encode\.mirr"):
        plain.check(True, 0.0)
    with pytest.raises(UserError, match=r"config\.train\.augment_probability"):
        FORM.check(True, 0.1)
    plain.check(False, 0.0)
    FORM.check(True, 0.0)
    IMAGES.check(True, 0.5)
