"""Colours against plain loops, Pillow and colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ddae_jax.data import augment, augment_colour


def keys(count):
    return augment.example_keys(jax.random.key(0), jnp.arange(count))


def photos(count, channels=3):
    """Random images in [0, 1]; some pixels grey or of two equal channels."""
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 1, (count, 8, 6, channels)).astype(np.float32)
    images[:, 0, :3] = np.array([0, 1, 0.25])[:, None]
    images[:, 0, 3, -1] = images[:, 0, 3, 0]
    return images


def luma(pixel):
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def blend(a, b, factor):
    """From b to a, and beyond, within 0 .. 1."""
    return min(max(b + (float(a) - b) * factor, 0.0), 1.0)


def each_pixel(image, function):
    flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
    return np.array([function(pixel) for pixel in flat]).reshape(image.shape)


def bright(image, factor):
    return each_pixel(image, lambda pixel: [blend(c, 0, factor) for c in pixel])


def contrasted(image, factor):
    flat = image.reshape(-1, image.shape[-1]).astype(np.float64)
    mean = sum(luma(p) if len(p) == 3 else p[0] for p in flat) / len(flat)
    return each_pixel(image, lambda pixel: [blend(c, mean, factor) for c in pixel])


def saturated(image, factor):
    return each_pixel(image, lambda p: [blend(c, luma(p), factor) for c in p])


def turned(image, turn):
    def turn_pixel(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

    return each_pixel(image, turn_pixel)


DEFINITIONS = {
    "brightness": (augment_colour.adjust_brightness, bright),
    "contrast": (augment_colour.adjust_contrast, contrasted),
    "saturation": (augment_colour.adjust_saturation, saturated),
    "hue": (augment_colour.adjust_hue, turned),
}
FACTORS = np.array([0.0, 0.6, 1.0, 1.4, 2.5], np.float32)
TURNS = np.array([0.0, -0.5, 0.5, 0.1, -0.03], np.float32)


@pytest.mark.parametrize("name", list(DEFINITIONS))
def test_colours_are_their_definitions(name):
    function, definition = DEFINITIONS[name]
    images = photos(5)
    factors = TURNS if name == "hue" else FACTORS
    ours = jax.jit(function)(images, factors)
    theirs = [definition(*pair) for pair in zip(images, factors, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert ours.min() >= 0 and ours.max() <= 1


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_are_pillows_but_for_its_bytes(name):
    enhancer = {"saturation": "Color"}.get(name, name.capitalize())
    images = np.round(photos(5) * 255).astype(np.uint8)
    ours = DEFINITIONS[name][0](images.astype(np.float32) / 255, FACTORS) * 255
    for image, factor, result in zip(images, FACTORS, ours, strict=True):
        enhance = getattr(ImageEnhance, enhancer)(Image.fromarray(image))
        theirs = np.asarray(enhance.enhance(float(factor)), np.float32)
        # Pillow rounds the grey before it blends, and cuts the result off.
        np.testing.assert_allclose(result, theirs, rtol=0, atol=1 + 0.6 * 2.5)


def test_grey_is_luma():
    images = photos(2)
    ours = augment_colour.grey(images)
    theirs = [each_pixel(image, lambda p: [luma(p)] * 3) for image in images]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    one = images[..., :1]
    np.testing.assert_array_equal(augment_colour.grey(one), one)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_takes_the_four_in_order(channels):
    images = photos(4, channels=channels)
    factors = augment_colour.draw_jitter(keys(4), 0.4, 0.4, 0.2, 0.1)
    ours = jax.jit(augment_colour.jitter)(images, factors)
    for image, result, (b, c, s, h) in zip(
        images, ours, np.asarray(factors), strict=True
    ):
        theirs = contrasted(bright(image, b), c)
        if channels == 3:
            theirs = turned(saturated(theirs, s), h)
        np.testing.assert_allclose(result, theirs, rtol=0, atol=5e-6)


def test_jitter_factors_fill_their_ranges():
    factors = np.asarray(augment_colour.draw_jitter(keys(4000), 0.4, 1.5, 0.2, 0.1))
    low, high = np.array([0.6, 0, 0.8, -0.1]), np.array([1.4, 2.5, 1.2, 0.1])
    assert (factors >= low - 1e-6).all() and (factors <= high + 1e-6).all()
    np.testing.assert_allclose(factors.mean(0), (low + high) / 2, rtol=0, atol=0.05)
    np.testing.assert_allclose(factors.std(0), (high - low) / 12**0.5, rtol=0.05)
    correlation = np.corrcoef(factors.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.08
