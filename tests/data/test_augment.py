"""Flip, crop and scaling on the accelerator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3), dtype=np.uint8)


def keys(count=64, seed=0):
    return augment.example_keys(jax.random.key(seed), jnp.arange(count))


def test_to_float_spans_minus_one_to_one():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = augment.to_float(jnp.asarray(values))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(
        scaled.ravel(), np.arange(256) / 255 * 2 - 1, rtol=0, atol=2e-7
    )
    assert (float(scaled.min()), float(scaled.max())) == (-1, 1)


def test_random_flip_mirrors_about_half(images):
    flipped = np.asarray(jax.jit(augment.random_flip)(keys(), images))
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(flipped, images, strict=True)]
    same = [(a == b).all() for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_random_crop_shifts_and_brings_in_black(images):
    cropped = np.asarray(jax.jit(augment.random_crop)(keys(), images))
    assert cropped.dtype == np.uint8
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    corners = set()
    for image, frame in zip(cropped, padded, strict=True):
        matches = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if (frame[top : top + 8, left : left + 8] == image).all()
        ]
        assert len(matches) == 1
        corners.add(matches[0])
    assert len(corners) > 30
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(9))


@pytest.mark.parametrize("function", [augment.random_flip, augment.random_crop])
def test_an_image_is_treated_alike_in_any_batch(function, images):
    images = jnp.asarray(images)
    whole = function(keys(), images)
    halves = [
        function(
            augment.example_keys(jax.random.key(0), jnp.arange(start, start + 32)),
            images[start : start + 32],
        )
        for start in (0, 32)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    assert (function(keys(seed=1), images) != whole).any()
