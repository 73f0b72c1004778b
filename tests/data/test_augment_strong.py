"""The strong view against plain loops and Pillow."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import augment, augment_colour, augment_strong
from ddae_jax.data.augment_strong import StrongAugment
from ddae_jax.errors import UserError

OFF = StrongAugment(
    least_area=1.0,
    jitter_probability=0.0,
    grey_probability=0.0,
    blur_probability=0.0,
    flip=False,
)
BOXES = [(0, 0, 12, 10), (0, 0, 1, 1), (11, 9, 1, 1), (3, 2, 5, 4), (5, 0, 7, 10)]


def keys(count, seed=0, start=0):
    positions = jnp.arange(start, start + count)
    return augment.example_keys(jax.random.key(seed), positions)


def photos(count, height=12, width=10, channels=3):
    """Random images; the first pixels are black, white and grey."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (count, height, width, channels)).astype(np.float32)
    images[:, 0, 0] = -1
    images[:, 0, 1] = 1
    images[:, 0, 2] = 0.25
    return images


view = jax.jit(lambda settings, keys, images: settings(keys, images), static_argnums=0)


# Crop


def bilinear(image, box):
    """The value of each output pixel, from the definition."""
    top, left, rows, columns = box
    height, width, _ = image.shape
    piece = image[top : top + rows, left : left + columns].astype(np.float64)
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            up, west = math.floor(y), math.floor(x)
            down, east = min(up + 1, rows - 1), min(west + 1, columns - 1)
            upper = piece[up, west] * (1 - x + west) + piece[up, east] * (x - west)
            lower = piece[down, west] * (1 - x + west) + piece[down, east] * (x - west)
            result[i, j] = upper * (1 - y + up) + lower * (y - up)
    return result


def test_crop_is_bilinear_between_pixel_centres():
    images = photos(len(BOXES))
    ours = jax.jit(augment_strong.crop)(images, jnp.array(BOXES))
    theirs = [bilinear(image, box) for image, box in zip(images, BOXES, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(ours[0], images[0])  # the whole image


def test_crop_is_pillows_with_its_antialiasing():
    images = photos(len(BOXES), channels=1)
    ours = augment_strong.crop(images, jnp.array(BOXES))
    for image, result, (top, left, rows, columns) in zip(
        images, ours, BOXES, strict=True
    ):
        piece = Image.fromarray(image[..., 0])
        piece = piece.crop((left, top, left + columns, top + rows))
        theirs = piece.resize((10, 12), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(result[..., 0], theirs, rtol=0, atol=2e-6)


def rejection(rng, height, width, least_area, aspect):
    """One box by the tries of RandomResizedCrop."""
    for _ in range(10):
        area = rng.uniform(least_area, 1) * height * width
        ratio = math.exp(rng.uniform(-math.log(aspect), math.log(aspect)))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top = rng.integers(0, height - rows + 1)
            return top, rng.integers(0, width - columns + 1), rows, columns
    raise AssertionError("no box fits")


@pytest.mark.parametrize(
    ("size", "least_area"), [((32, 32), 0.2), ((24, 30), 0.08)], ids=str
)
def test_boxes_are_distributed_as_by_rejection(size, least_area):
    count = 4000
    ours = augment_strong.draw_boxes(keys(count), size, least_area, 4 / 3)
    ours = np.asarray(ours)
    rng = np.random.default_rng(0)
    theirs = np.array([rejection(rng, *size, least_area, 4 / 3) for _ in range(count)])
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    for ours_of, theirs_of in [
        (ours.T, theirs.T),
        ([ours[:, 2] * ours[:, 3]], [theirs[:, 2] * theirs[:, 3]]),
        ([ours[:, 3] / ours[:, 2]], [theirs[:, 3] / theirs[:, 2]]),
    ]:
        for a, b in zip(ours_of, theirs_of, strict=True):
            error = math.sqrt((a.var() + b.var()) / count)
            assert abs(a.mean() - b.mean()) < 4 * error
            assert abs(a.std() / b.std() - 1) < 0.08


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((6, 20), (0, 6, 6, 8)),
        ((20, 6), (6, 0, 8, 6)),
        ((15, 16), (0, 0, 15, 16)),
        ((1, 1), (0, 0, 1, 1)),
    ],
)
def test_a_box_that_never_fits_is_the_centre(size, box):
    boxes = augment_strong.draw_boxes(keys(50), size, 1.0, 4 / 3)
    if size[0] * 4 / 3 < size[1] or size[1] * 4 / 3 < size[0]:
        np.testing.assert_array_equal(boxes, [box] * 50)  # the whole area: none fits
    else:
        assert tuple(box) in set(map(tuple, np.asarray(boxes).tolist()))


# Blur


def convolved(image, sigma, size):
    """Every pixel as the mean of its neighbours, reflected at the border."""
    height, width, _ = image.shape
    radius = size // 2
    weights = [math.exp(-(o**2) / (2 * sigma**2)) for o in range(-radius, radius + 1)]

    def reflected(i, side):
        i = abs(i)
        return i if i < side else 2 * (side - 1) - i

    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            for down in range(-radius, radius + 1):
                for right in range(-radius, radius + 1):
                    weight = weights[down + radius] * weights[right + radius]
                    y, x = reflected(i + down, height), reflected(j + right, width)
                    result[i, j] += weight * image[y, x].astype(np.float64)
    return result / sum(weights) ** 2


@pytest.mark.parametrize(("side", "size"), [((12, 10), 3), ((44, 40), 5)], ids=str)
def test_blur_is_a_gaussian_mean(side, size):
    images = photos(3, *side)
    sigmas = np.array([0.1, 0.7, 2.0], np.float32)
    ours = jax.jit(augment_strong.blur)(images, sigmas)
    theirs = [convolved(*pair, size) for pair in zip(images, sigmas, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(ours[0], images[0])  # 0.1 pixel: no neighbour counts


def test_kernel_size():
    sizes = {1: 1, 2: 3, 16: 3, 32: 3, 40: 5, 64: 7, 96: 9, 224: 23, 256: 25}
    assert {side: augment_strong.kernel_size(side) for side in sizes} == sizes


def test_sigmas_fill_their_range():
    sigmas = np.asarray(augment_strong.draw_sigmas(keys(2000), 0.1, 2.0))
    assert 0.1 <= sigmas.min() < 0.12 and 1.98 < sigmas.max() <= 2
    assert abs(sigmas.mean() - 1.05) < 0.05


# The whole view


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_with_everything_off_the_image_comes_back(channels):
    images = photos(4, channels=channels) * (5 if channels == 4 else 1)
    np.testing.assert_array_equal(view(OFF, keys(4), images), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_treated_alike_in_any_batch(channels):
    images = photos(16, channels=channels)
    whole = view(StrongAugment(), keys(16), images)
    assert whole.shape == images.shape and whole.dtype == images.dtype
    parts = [view(StrongAugment(), keys(4, start=i), images[i : i + 4]) for i in (4, 8)]
    np.testing.assert_allclose(whole[4:12], np.concatenate(parts), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(whole, view(StrongAugment(), keys(16), images))
    other = view(StrongAugment(), keys(16, seed=1), images)
    assert (np.asarray(whole) != other).any((1, 2, 3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_within_the_range(channels):
    strongest = StrongAugment(
        brightness=2.0,
        contrast=2.0,
        saturation=2.0,
        hue=0.5,
        jitter_probability=1.0,
        grey_probability=0.5,
    )
    images = np.sign(photos(64, channels=channels)) * np.float32(1)
    for settings in (strongest, dataclasses.replace(OFF, least_area=0.1)):
        result = np.asarray(view(settings, keys(64), images))
        assert result.min() >= -1 and result.max() <= 1


def test_every_part_has_its_own_coin():
    images = np.repeat(photos(1, 4, 4), 1000, axis=0)
    parts = [
        (0.8, dataclasses.replace(OFF, jitter_probability=0.8)),
        (0.2, dataclasses.replace(OFF, grey_probability=0.2)),
        (0.4, dataclasses.replace(OFF, blur_probability=0.4, least_sigma=0.5)),
        (0.5, dataclasses.replace(OFF, flip=True)),
    ]
    coins = []
    for probability, settings in parts:
        result = np.asarray(view(settings, keys(1000), images))
        coins.append((result != images).any((1, 2, 3)))
        error = math.sqrt(probability * (1 - probability) / 1000)
        assert abs(coins[-1].mean() - probability) < 4 * error
    assert np.abs(np.corrcoef(coins) - np.eye(4)).max() < 0.13


def test_the_view_is_its_parts():
    images = photos(8)
    settings = dataclasses.replace(
        OFF, grey_probability=1.0, blur_probability=1.0, least_sigma=0.8, most_sigma=0.8
    )
    theirs = augment_colour.grey((images + 1) / 2) * 2 - 1
    theirs = augment_strong.blur(theirs, jnp.full(8, 0.8))
    ours = view(settings, keys(8), images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_the_view_jitters_values_from_zero_to_one():
    strengths = {"contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    settings = dataclasses.replace(OFF, jitter_probability=1.0, **strengths)
    images = photos(8)
    result = (np.asarray(view(settings, keys(8), images)) + 1) / 2
    dark = (images > -0.9) & (images < 0.3)  # what 1.4 times as bright does not clip
    for image, changed, chosen in zip((images + 1) / 2, result, dark, strict=True):
        factors = changed[chosen] / image[chosen]
        assert 0.6 <= factors.mean() <= 1.4
        np.testing.assert_allclose(factors, factors.mean(), rtol=1e-5)


def test_a_flip_mirrors():
    images = photos(16)
    flipped = view(dataclasses.replace(OFF, flip=True), keys(16), images)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert 0 < mirrored.sum() < 16
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])


def test_half_precision_comes_back_as_such():
    images = jnp.asarray(photos(2), jnp.bfloat16)
    result = view(StrongAugment(), keys(2), images)
    assert result.dtype == jnp.bfloat16


# What cannot be


@pytest.mark.parametrize("part", ["jitter", "grey", "blur"])
def test_latents_have_no_colours(part):
    latents = photos(2, channels=4)
    with pytest.raises(UserError, match=f"4 channels .* {part}_probability to 0"):
        dataclasses.replace(OFF, **{f"{part}_probability": 0.1})(keys(2), latents)
    cropped = view(
        dataclasses.replace(OFF, least_area=0.2, flip=True), keys(2), latents
    )
    assert (np.asarray(cropped) != latents).any()


@pytest.mark.parametrize(
    "fields",
    [
        {"jitter_probability": 1.1},
        {"grey_probability": -0.1},
        {"blur_probability": math.nan},
        {"hue": 0.6},
        {"brightness": -1.0},
        {"contrast": math.inf},
        {"aspect": 0.9},
        {"least_area": 0.0},
        {"least_sigma": 0.0},
        {"least_sigma": 3.0},
    ],
    ids=str,
)
def test_impossible_settings_are_named(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        StrongAugment(**fields)
