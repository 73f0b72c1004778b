"""Windows over photos: where they lie, what they weigh, and the maps made of them."""

import numpy as np
import pytest
from einops import reduce

from ddae_jax.errors import UserError
from ddae_jax.features.windows import Windows, reach, starts

RNG = np.random.default_rng(0)
SIZES = [
    ((8, 8), (8, 8)),
    ((16, 24), (8, 8)),
    ((17, 41), (8, 8)),
    ((600, 902), (256, 256)),
    ((28, 33), (28, 20)),
    ((9, 30), (7, 11)),
    ((5, 1), (1, 1)),
    ((7, 3), (2, 3)),
]


def stitch(windows, features):
    return windows.stitch({"tap": one} for one in features)["tap"]


def cut(photo, windows):
    height, width = windows.window
    return [
        photo[top : top + height, left : left + width]
        for top, left in windows.corners()
    ]


@pytest.mark.parametrize("photo, window", SIZES)
def test_every_pixel_is_covered_and_neighbours_overlap(photo, window):
    for length, side in zip(photo, window, strict=True):
        found = starts(length, side)
        assert found[0] == 0 and found[-1] == length - side
        assert (np.diff(found) > 0).all()
        assert (np.diff(found) <= max(side // 4, 1)).all()
        assert len(found) <= 2 + (length - side) // max(side // 4, 1)


@pytest.mark.parametrize("photo, window", SIZES)
def test_pixels_are_stitched_back_bit_by_bit(photo, window):
    values = RNG.normal(size=(*photo, 3)).astype(np.float32)
    windows = Windows(photo, window)
    found = stitch(windows, cut(values, windows))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("photo, window", SIZES)
@pytest.mark.parametrize("cells", [(1, 1), (4, 4), (3, 2), (7, 5)])
def test_a_constant_gives_a_constant_on_a_grid_of_the_photos_aspect(
    photo, window, cells
):
    windows = Windows(photo, window)
    value = np.array([0.1, -3e5], np.float32)
    features = np.broadcast_to(value, (*cells, 2))
    found = stitch(windows, [features] * len(windows.corners()))
    for count, length, side, own in zip(
        found.shape, photo, window, cells, strict=False
    ):
        assert abs(count - length * own / side) <= 0.5
    np.testing.assert_array_equal(found, np.broadcast_to(value, found.shape))


def test_one_window_gives_its_features_back():
    for cells in ((4, 4), (16, 16), (3, 5)):
        features = RNG.normal(size=(*cells, 6)).astype(np.float32)
        found = stitch(Windows((16, 16), (16, 16)), [features])
        np.testing.assert_array_equal(found, features)


def test_coarse_features_lie_where_their_pixels_do():
    photo = RNG.normal(size=(32, 56, 2)).astype(np.float32)
    windows = Windows((32, 56), (16, 16))

    def coarse(image):
        return reduce(image, "(r a) (c b) k -> r c k", "mean", a=4, b=4)

    found = stitch(windows, [coarse(part) for part in cut(photo, windows)])
    np.testing.assert_allclose(found, coarse(photo), atol=1e-6)
    # Windows that begin between positions: a plane is interpolated as it is, away from
    # the ends, where the last position is taken.
    rows, columns = np.mgrid[:37, :59]
    plane = (2.0 * rows - columns)[..., None].astype(np.float32)
    windows = Windows((37, 59), (16, 16))
    found = stitch(windows, [coarse(part) for part in cut(plane, windows)])
    assert found.shape == (9, 15, 1)
    places = [(np.arange(n) + 0.5) * s / n - 0.5 for n, s in ((9, 37), (15, 59))]
    expected = 2 * places[0][:, None] - places[1]
    np.testing.assert_allclose(found[..., 0], expected, atol=1.5)


def test_weights_fall_to_the_edges_of_a_window_so_that_no_seam_shows():
    found = reach(start=8, window=16, cells=16, length=40)
    assert (found.places.start, found.places.stop) == (8, 24)
    np.testing.assert_allclose(
        found.weights, [*np.arange(8) + 0.5, *np.arange(8)[::-1] + 0.5]
    )
    # Windows that say 0, 1, 0, 1, ...: from one position to the next, the map changes
    # by no more than the weights do.
    windows = Windows((16, 64), (16, 16))
    values = [np.full((16, 16, 1), i % 2, np.float32) for i in range(13)]
    stitched = stitch(windows, values)[0, :, 0]
    assert np.abs(np.diff(stitched)).max() <= 1 / 8 + 1e-6
    assert stitched.min() == 0


def test_a_photo_smaller_than_its_windows_is_one_line():
    with pytest.raises(UserError, match="a photo of 8x7 pixels has no window of 8x8"):
        Windows((8, 7), (8, 8))
