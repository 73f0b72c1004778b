"""Images side by side, and PNG files of them; what draws with matplotlib is in
pictures.py, because that takes long to import."""

import io
import pathlib

import numpy as np
from einops import rearrange, repeat
from jaxtyping import UInt8
from PIL import Image

from ddae_jax.runtime.files import replacing

_GAP = 128  # grey level between the images of a grid
WIDTH = 600
"""Pixels: about the width of a grid of images."""


def whole_factor(width: int, wanted: int = WIDTH) -> int:
    """The whole factor, at least 1, that brings a width closest to the wanted one."""
    return max(round(wanted / width), 1)


def enlarge(
    images: UInt8[np.ndarray, "*count height width channels"], factor: int
) -> UInt8[np.ndarray, "*count taller wider channels"]:
    """Repeats each pixel `factor` times in both directions."""
    return repeat(images, "... h w c -> ... (h a) (w b) c", a=factor, b=factor)


def grid(
    images: UInt8[np.ndarray, "count height width channels"], wanted: int = WIDTH
) -> UInt8[np.ndarray, "tall wide 3"]:
    """Lays images out in rows, about as many as columns, and no blurred pixels.

    Args:
      images: at least one, grey or RGB.
      wanted: about this many pixels across: images are enlarged by a whole factor.
    """
    count, width = len(images), images.shape[2]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    images = enlarge(rgb(images), whole_factor(columns * width, wanted))
    none = np.full((rows * columns - count, *images.shape[1:]), _GAP, np.uint8)
    filled = np.concatenate([images, none])
    framed = np.pad(filled, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=_GAP)
    return rearrange(framed, "(r c) h w ch -> (r h) (c w) ch", r=rows)


def rows(
    strips: UInt8[np.ndarray, "rows frames height width channels"],
    wanted: int = WIDTH,
) -> UInt8[np.ndarray, "tall wide 3"]:
    """Lays strips of images out below one another, as `grid` does images."""
    factor = whole_factor(strips.shape[1] * strips.shape[3], wanted)
    large = enlarge(rgb(strips), factor)
    gaps = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
    framed = np.pad(large, gaps, constant_values=_GAP)
    return rearrange(framed, "r f h w c -> (r h) (f w) c")


def png(image: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """A grey or RGB image as a PNG file."""
    buffer = io.BytesIO()
    shown = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(shown).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(
    path: pathlib.Path, image: UInt8[np.ndarray, "height width channels"]
) -> None:
    """Writes `png(image)` as a whole file; makes its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(png(image))


def rgb(
    images: UInt8[np.ndarray, "*count height width channels"],
) -> UInt8[np.ndarray, "*count height width 3"]:
    """Grey images as RGB ones; RGB as they are."""
    if images.shape[-1] == 3:
        return images
    return repeat(images, "... h w 1 -> ... h w c", c=3)
