"""Pictures made of images: their pixels and their type."""

import io

import numpy as np
import pytest
from PIL import Image

from ddae_jax.report import figures, grids, pictures


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def open_png(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    "width, factor", [(8, 75), (144, 4), (410, 1), (599, 1), (2048, 1)]
)
def test_factors_are_whole(width, factor):
    assert grids.whole_factor(width) == factor


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_pixel_of_every_image(channels):
    images = random_images(5, 6, 8, channels)
    grid = grids.grid(images, wanted=70)  # 3 columns of 8: three times as large
    assert grid.shape == (2 * (18 + 2), 3 * (24 + 2), 3)
    for number, image in enumerate(images):
        top, left = divmod(number, 3)
        tile = grid[20 * top + 1 :, 26 * left + 1 :][:18:3, :24:3]
        np.testing.assert_array_equal(tile, np.broadcast_to(image, (6, 8, 3)))
    assert (grid[20:, 52:] == grid[0, 0]).all()  # no sixth image


def test_images_are_written_as_they_are_and_whole(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = random_images(5, 4, channels)
        path = tmp_path / "folder" / f"{mode}.png"
        grids.write_png(path, image)
        with Image.open(path) as read:
            assert read.mode == mode
            np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)
    assert len(list(path.parent.iterdir())) == 2


def sizes_of_type(figure):
    texts = []
    for axis in figure.axes:
        texts += [axis.title, axis.xaxis.label, axis.yaxis.label]
    return {text.get_fontsize() for text in texts if text.get_text()}


def test_maps_keep_the_shape_of_their_image():
    images = [random_images(8, 8, 1), random_images(30, 45, 3)]
    maps = [np.zeros((2, 2, 3)), np.ones((3, 4, 3))]
    figure = pictures.maps(
        images, ["a", "deep/very_long_name_of_a_file.png"], [("m", maps)]
    )
    for axis, image in zip(figure.axes[1::2], images, strict=True):
        height, width = image.shape[:2]
        assert axis.images[0].get_extent() == [0, width, height, 0]
    assert figure.axes[2].get_ylabel().startswith("…")
    assert sizes_of_type(figure) == {figures.TYPE_SIZE}
    with open_png(pictures.png(figure)) as image:
        assert image.info["dpi"][0] == pytest.approx(192, abs=0.1)


def test_neighbours_of_another_class_are_named_and_red():
    found = random_images(1, 2, 8, 8, 1)
    figure = pictures.neighbours(
        found[:, 0], np.array([1]), found, np.array([[1, 0]]), ("cat", "dog")
    )
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["dog", "", "cat"]
    assert figure.axes[2].title.get_color() == pictures.WRONG
    assert sizes_of_type(figure) == {figures.TYPE_SIZE}


def test_more_columns_than_the_page_has_room_for_make_smaller_tiles():
    tiles = [pictures.Tile(random_images(8, 8, 3), "a name") for _ in range(20)]
    wide, narrow = pictures.gallery([tiles]), pictures.gallery([tiles[:2]])
    assert wide.get_figwidth() == pytest.approx(9.2) and narrow.get_figwidth() < 4


def test_what_is_very_tall_is_drawn_narrower():
    rows = [[pictures.Tile(random_images(500, 2, 3))] for _ in range(64)]
    assert pictures.gallery(rows).get_figheight() * 192 < 1 << 16


def test_colours_come_again_after_twenty():
    colours = pictures.paint(np.arange(23))
    assert len({tuple(colour) for colour in colours[:20]}) == 20
    np.testing.assert_array_equal(colours[20:], colours[:3])


def test_a_heat_map_is_in_the_order_of_noise_levels():
    accuracy = np.array([[0.1, 0.2], [0.3, 0.4]])
    figure = pictures.heat_map(["a", "b"], [2.0, 1.0], accuracy, (1, 0), "title")
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), [[20, 10], [40, 30]])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2"]
    assert axis.patches[0].get_xy() == (0.5, 0.5)
