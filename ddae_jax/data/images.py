"""Image files and arrays to uint8 images of one size and one number of channels."""

import io
import os
import struct
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddae_jax.data import area
from ddae_jax.errors import UserError
from ddae_jax.runtime import files

# Channels of the file formats' colour modes. Others (alpha, CMYK, 16 bit) have no
# obvious reading as grey or RGB: they are converted only when asked, or refused.
_CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3}
_CONVERTIBLE = ("1", "L", "RGB", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr")
_MODES = {1: "L", 3: "RGB"}
# Ways of resizing, see `resize`.
BICUBIC, AREA = "bicubic", "area"
RESIZES = (BICUBIC, AREA)
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def check_wanted(
    image_size: int | None, channels: int | None, resize: str = BICUBIC
) -> None:
    """Raises UserError unless the size is positive, the channels are 1 or 3, and the
    way of resizing is known."""
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}, it must be at least 1")
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}, known: 1 (grey), 3 (RGB)")
    if resize not in RESIZES:
        raise UserError(f"resize is {resize!r}, known: {', '.join(RESIZES)}")


def decode(
    file: str | os.PathLike | bytes,
    where: str,
    image_size: int | None = None,
    channels: int | None = None,
    resize: str = BICUBIC,
) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes an image file (or its bytes).

    Args:
      file: path, or the file's content.
      where: what errors call the file.
      image_size: if given, the shorter side is resized to it and the centre is
        cropped.
      channels: if given, grey is converted to RGB (3) or colour to grey (1).
      resize: how; one of RESIZES.
    """
    try:
        with warnings.catch_warnings(), _stream(file) as stream:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as opened:
                opened.load()
                image = opened.copy()
    except UserError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: not a readable image ({reason})") from error
    if channels is None:
        if image.mode not in _CHANNELS:
            raise UserError(
                f"{where}: colour mode {image.mode} is neither grey nor RGB; "
                "set channels to 1 or 3 to convert it"
            )
        channels = _CHANNELS[image.mode]
    elif image.mode not in _CONVERTIBLE:
        raise UserError(f"{where}: colour mode {image.mode} has no 8-bit conversion")
    array = np.asarray(image.convert(_MODES[channels]), np.uint8)
    array = array.reshape(*array.shape[:2], channels)
    return array if image_size is None else _cover(array, image_size, resize)


def header_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns (height, width) of an image file without decoding it."""
    try:
        with warnings.catch_warnings(), files.open_regular(path) as stream:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                return image.height, image.width
    except UserError:
        raise
    except _READ_ERRORS as error:
        raise UserError(f"{path}: not a readable image") from error


def fit(
    images: UInt8[np.ndarray, "batch height width channels"],
    image_size: int | None,
    resize: str = BICUBIC,
) -> UInt8[np.ndarray, "batch size size channels"]:
    """Brings images to a square size: zeros around smaller ones, larger ones resized.

    Zeros are shared evenly (28 -> 32: two on each side; an odd one goes below and
    right). Images larger than `image_size` along a side are resized (see `resize`) so
    that the shorter side fits, and their centre is cropped.
    """
    height, width = images.shape[1:3]
    if image_size is None or (height, width) == (image_size, image_size):
        return images
    if max(height, width) > image_size:
        return _cover(images, image_size, resize)
    return pad(images, image_size, image_size)


def pad(
    images: UInt8[np.ndarray, "batch old_height old_width channels"],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "batch height width channels"]:
    """Puts zeros around images; an odd one goes below and right."""
    margins = [
        ((new - old) // 2, (new - old + 1) // 2)
        for old, new in zip(images.shape[1:3], (height, width), strict=True)
    ]
    return np.pad(images, [(0, 0), *margins, (0, 0)])


def covering_size(size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image of `size` scaled until it just covers `least`."""
    ratio = max(wanted / side for wanted, side in zip(least, size, strict=True))
    height, width = (
        max(wanted, round(side * ratio))
        for wanted, side in zip(least, size, strict=True)
    )
    return height, width


def resize(
    images: UInt8[np.ndarray, "*batch old_height old_width channels"],
    height: int,
    width: int,
    how: str = BICUBIC,
) -> UInt8[np.ndarray, "*batch height width channels"]:
    """Resizes images.

    Args:
      how: BICUBIC, with antialiasing where images become smaller, as Pillow does;
        AREA, the mean over the area of each new pixel, see `area.resize`.
    """
    if how == AREA:
        return area.resize(images, height, width)
    *batch, old_height, old_width, channels = images.shape
    resized = [
        Image.fromarray(image[..., 0] if channels == 1 else image).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for image in images.reshape(-1, old_height, old_width, channels)
    ]
    array = np.asarray([np.asarray(image) for image in resized], np.uint8)
    return array.reshape(*batch, height, width, channels)


def convert_channels(
    images: UInt8[np.ndarray, "batch height width old"], channels: int | None
) -> UInt8[np.ndarray, "batch height width new"]:
    """Grey to RGB by repetition, RGB to grey by ITU-R 601 luma (as Pillow does)."""
    if channels is None or images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 x 2^16
    luma = (images.astype(np.uint32) @ weights + 0x8000) >> 16
    return luma[..., None].astype(np.uint8)


def _stream(file):
    """A context manager that gives the bytes of a file."""
    return io.BytesIO(file) if isinstance(file, bytes) else files.open_regular(file)


def _cover(
    images: UInt8[np.ndarray, "*batch height width channels"],
    image_size: int,
    how: str,
) -> UInt8[np.ndarray, "*batch size size channels"]:
    """The shorter side is resized to `image_size`, the centre cropped."""
    least = (image_size, image_size)
    height, width = covering_size(images.shape[-3:-1], least)
    top, left = (height - image_size) // 2, (width - image_size) // 2
    rows, columns = slice(top, top + image_size), slice(left, left + image_size)
    return resize(images, height, width, how)[..., rows, columns, :]
