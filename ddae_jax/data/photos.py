"""Photos at their own aspect, in the size at which windows of a network cover them."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ddae_jax.data import images as image_ops


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """One image file.

    Attributes:
      pixels: for the network: its channels, at least its input's size.
      shown: for people: in colour, no larger than asked.
    """

    pixels: UInt8[np.ndarray, "height width channels"]
    shown: UInt8[np.ndarray, "shown_height shown_width 3"]


@dataclasses.dataclass(frozen=True)
class Size:
    """How large photos are made.

    Attributes:
      window: (height, width) of the network's input.
      scale: the shorter side becomes this many sides of the window.
      enlarge: images smaller than the window too; else they get a black margin of its
        size, as in the data sets that do so.
      resize: how, see `images.resize`.
    """

    window: tuple[int, int]
    scale: int
    enlarge: bool
    resize: str = image_ops.BICUBIC

    def padded(self, size: tuple[int, int]) -> bool:
        """Whether an image of `size`, (height, width), gets a margin."""
        fits = all(a <= b for a, b in zip(size, self.window, strict=True))
        return fits and not self.enlarge

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of `Photo.pixels` of an image of `size`."""
        if self.padded(size):
            return self.window
        height, width = self.window
        return image_ops.covering_size(size, (self.scale * height, self.scale * width))


def read(path: pathlib.Path, channels: int, size: Size, shown: int) -> Photo:
    """Reads a file. Colours are converted, sizes changed.

    An image that gets a margin is shown with it.

    Args:
      channels: of the network, 1 or 3.
      shown: pixels of the longer side for people, at most.

    Raises:
      UserError: unreadable, or not convertible; names the file.
    """
    image = image_ops.decode(path, str(path), None, channels)
    colour = image if channels == 3 else image_ops.decode(path, str(path), None, 3)
    if size.padded(image.shape[:2]):
        pixels = image_ops.pad(image[None], *size.window)[0]
        colour = image_ops.pad(colour[None], *size.window)[0]
    else:
        pixels = image_ops.resize(image, *size.of(image.shape[:2]), size.resize)
    return Photo(pixels, _reduce(colour, shown))


def read_all(
    paths: Sequence[pathlib.Path],
    channels: int,
    size: Size,
    shown: int,
    threads: int = 8,
) -> list[Photo]:
    """`read` of several files, `threads` at a time; 0 is one."""
    with concurrent.futures.ThreadPoolExecutor(max(threads, 1)) as pool:
        return list(pool.map(lambda path: read(path, channels, size, shown), paths))


def _reduce(image: np.ndarray, longest: int) -> np.ndarray:
    ratio = longest / max(image.shape[:2])
    if ratio >= 1:
        return image
    height, width = (max(round(side * ratio), 1) for side in image.shape[:2])
    return image_ops.resize(image, height, width)
