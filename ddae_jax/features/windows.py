"""Windows over a photo that is larger than a network's input, and maps made of theirs.

Windows overlap. Where they do, a map is the mean of their features, weighted by how far
a position is from the edge of the window: the weights fall to 0 there, so no seam
shows. Positions of a map lie where those of the windows do; where windows begin between
positions, features are interpolated linearly.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Attributes:
    photo: (height, width) in pixels.
    window: (height, width) in pixels.

    Raises:
      UserError: the photo is smaller than the window.
    """

    photo: tuple[int, int]
    window: tuple[int, int]

    def __post_init__(self):
        if any(a < b for a, b in zip(self.photo, self.window, strict=True)):
            photo, window = ("x".join(map(str, s)) for s in (self.photo, self.window))
            raise UserError(f"a photo of {photo} pixels has no window of {window}")

    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each window, row by row, in pixels."""
        tops, lefts = map(starts, self.photo, self.window)
        return list(itertools.product(tops.tolist(), lefts.tolist()))

    def grid(self, cells: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the map where windows have `cells`, (rows, columns)."""
        rows, columns = map(_count, self.photo, self.window, cells)
        return rows, columns

    def stitch(
        self,
        windows: Iterable[
            Mapping[str, Float[np.ndarray, "window_rows window_columns channels"]]
        ],
    ) -> dict[str, Float[np.ndarray, "rows columns channels"]]:
        """Makes one map of each feature out of those of all windows.

        Args:
          windows: name -> finite features of each window, in the order of `corners`;
            taken one by one, none is kept.

        Returns:
          name -> float32 map. Sums are float64: where windows begin at positions of the
          map and agree on a feature, it is returned bit by bit.
        """
        totals, weights = {}, {}
        for corner, features in zip(self.corners(), windows, strict=True):
            for name, found in features.items():
                *cells, channels = found.shape
                if name not in totals:
                    shape = self.grid(tuple(cells))
                    totals[name] = np.zeros((*shape, channels))
                    weights[name] = np.zeros((*shape, 1))
                rows, columns = map(reach, corner, self.window, cells, self.photo)
                inner = columns.take(rows.take(found, axis=0), axis=1)
                weight = np.outer(rows.weights, columns.weights)
                weight = rearrange(weight, "r c -> r c 1")
                totals[name][rows.places, columns.places] += weight * inner
                weights[name][rows.places, columns.places] += weight
        return {
            name: (total / weights[name]).astype(np.float32)
            for name, total in totals.items()
        }


def starts(length: int, window: int) -> Int[np.ndarray, "windows"]:
    """Where windows begin along one axis: evenly spread, from end to end.

    Neighbours are a quarter of a window apart at most: networks see their borders, and
    with fewer windows over a position their traces show as stripes.
    """
    stride = max(window // 4, 1)
    steps = -(-(length - window) // stride)
    return np.arange(steps + 1) * (length - window) // max(steps, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Reach:
    """The positions of a map that one window reaches along one axis.

    Attributes:
      places: which they are; none where all centres lie on the window's edges.
      weights: pixels from each of them to the nearer edge of the window.
      before: the window's cell whose centre is at each, or next before it.
      share: of the next cell, in [0, 1).
    """

    places: slice
    weights: Float[np.ndarray, "places"]
    before: Int[np.ndarray, "places"]
    share: Float[np.ndarray, "places"]

    def take(self, features: np.ndarray, axis: int) -> np.ndarray:
        """Features of a window at these positions of the map, along one axis."""
        first = features.take(self.before, axis)
        if not self.share.any():
            return first
        last = features.shape[axis] - 1
        second = features.take(np.minimum(self.before + 1, last), axis)
        shape = [-1 if i == axis else 1 for i in range(features.ndim)]
        share = self.share.reshape(shape)
        return (1 - share) * first + share * second


def reach(start: int, window: int, cells: int, length: int) -> Reach:
    """What the window that begins at `start` reaches along one axis.

    Args:
      start, window, length: of the window and the photo, in pixels.
      cells: positions of the window's features.
    """
    count = _count(length, window, cells)
    # Position i lies at (2 i + 1) length / (2 count) pixels; all of it in whole numbers
    # of 1 / (2 count) pixels, so that nothing is rounded where cells coincide.
    left, width = 2 * count * start, 2 * count * window
    first = (left + length) // (2 * length)
    stop = -((length - left - width) // (2 * length))
    inside = (2 * np.arange(first, stop) + 1) * length - left
    # Cell j lies at (2 j + 1) window / (2 cells) pixels; outside of the first and the
    # last, features are theirs.
    numerator = np.clip(inside * cells - count * window, 0, (cells - 1) * width)
    before, rest = np.divmod(numerator, width)
    return Reach(
        slice(first, stop),
        np.minimum(inside, width - inside) / (2 * count),
        before,
        rest / width,
    )


def _count(length: int, window: int, cells: int) -> int:
    return max(round(length * cells / window), 1)
