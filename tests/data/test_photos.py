"""Photos at their own aspect."""

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import image_files, photos
from ddae_jax.errors import UserError
from tests.tools import dense as dense_tools

RNG = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photo.png"


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (20, 9), (8, 8)])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_shorter_side_is_scaled_and_the_aspect_kept(path, size, scale):
    dense_tools.save(path, RNG.integers(0, 256, (*size, 3)))
    how = photos.Size((8, 8), scale, enlarge=True)
    photo = photos.read(path, 3, how, 200)
    height, width = photo.pixels.shape[:2]
    assert min(height, width) == 8 * scale and how.of(size) == (height, width)
    assert abs(max(height, width) - 8 * scale * max(size) / min(size)) <= 0.5
    assert max(photo.shown.shape[:2]) == min(max(size), 200)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (12, 12), (5, 5), (5, 8)])
@pytest.mark.parametrize("enlarge", [False, True])
def test_squares_at_scale_1_are_what_other_tasks_read(
    tmp_path, mode, channels, size, enlarge
):
    if enlarge and size[0] != size[1]:
        return  # others crop it
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(path)
    photo = photos.read(path, channels, photos.Size((8, 8), 1, enlarge), 600)
    expected = image_files.read(path, (8, 8, channels), enlarge)
    np.testing.assert_array_equal(photo.pixels, expected)
    assert photo.shown.shape[-1] == 3


def test_a_margin_stays_at_every_scale_and_is_shown(path):
    dense_tools.save(path, np.full((5, 6, 3), 200))
    photo = photos.read(path, 1, photos.Size((8, 8), 3, enlarge=False), 600)
    assert photo.pixels.shape == (8, 8, 1) and photo.shown.shape == (8, 8, 3)
    assert (photo.pixels == 200).sum() == 30 and (photo.shown == 200).sum() == 90


def test_a_strip_is_shown_too(path):
    dense_tools.save(path, RNG.integers(0, 256, (1, 700)))
    photo = photos.read(path, 1, photos.Size((2, 2), 1, enlarge=True), 100)
    assert photo.pixels.shape == (2, 1400, 1) and photo.shown.shape == (1, 100, 3)


def test_files_that_are_no_images_are_named(path):
    path.write_text("no")
    with pytest.raises(UserError, match=r"photo\.png: not a readable image"):
        photos.read_all([path], 3, photos.Size((8, 8), 1, enlarge=True), 600)
