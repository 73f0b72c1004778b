"""Image files of the user's own as a source, brought to the shape of a data set."""

import concurrent.futures
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from PIL import Image

from ddae_jax.data import images as image_ops
from ddae_jax.data import source as data_source
from ddae_jax.data.sources import SOURCES
from ddae_jax.errors import UserError


def find(given: str, field: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Lists the images of a folder, at any depth and sorted, or a single file.

    A file is an image where Pillow reads its extension; others are named in a warning.

    Args:
      given: a file or a folder.
      field: what errors call it, such as config.predict.images.

    Returns:
      the folder, and the paths below it.

    Raises:
      UserError: there is nothing, or no image in it.
    """
    place = pathlib.Path(given)
    if place.is_file():
        return place.parent, [place]
    if not place.is_dir():
        raise UserError(f"{field}: there is no file or folder {given}")
    files = sorted(path for path in place.rglob("*") if not path.is_dir())
    known = _extensions()
    found = [path for path in files if path.suffix.lower() in known and path.is_file()]
    if not found:
        shown = f"; it holds {files[0].name}" if files else ", it is empty"
        raise UserError(f"{field}: no images in {given}{shown}")
    others = sorted({*files} - {*found})
    if others:
        logging.warning(
            "%s: %d files in %s are no images, such as %s",
            field,
            len(others),
            given,
            others[0].name,
        )
    return place, found


def _extensions() -> frozenset[str]:
    Image.init()
    return frozenset(
        extension
        for extension, kind in Image.registered_extensions().items()
        if kind in Image.OPEN
    )


def read(
    file: pathlib.Path | bytes,
    image_shape: tuple[int, int, int],
    enlarge: bool,
    resize: str = image_ops.BICUBIC,
    where: str = "",
) -> np.ndarray:
    """Reads a file, or its content, and brings it to `image_shape` as a data set does.

    Colours are converted; larger images are resized and their centre is cropped.

    Args:
      enlarge: resize smaller images too; else they get a black margin.
      resize: how, see `images.resize`.
      where: what errors call it; empty: its path.

    Returns:
      uint8 of `image_shape`.

    Raises:
      UserError: unreadable, or not convertible; names the file.
    """
    height, width, channels = image_shape
    where = where or str(file)
    image = image_ops.decode(file, where, None, channels)
    if image.shape == image_shape:
        return image
    if height != width:
        raise UserError(
            f"{where}: {image.shape[0]}x{image.shape[1]} pixels; this network takes "
            f"{height}x{width}, to which images are not resized"
        )
    if enlarge:
        return image_ops.decode(file, where, height, channels, resize)
    return image_ops.fit(image[None], height, resize)[0]


def enlarges(data_name: str) -> bool:
    """Whether a data set resizes images that are smaller than wanted."""
    return data_name in SOURCES and SOURCES[data_name].enlarges


def check_channels(name: str, channels: int) -> None:
    """Raises a UserError, which names `name`, unless image files have `channels`."""
    if channels not in (1, 3):
        raise UserError(
            f"{name}: the network takes {channels} channels, image files have 1 or 3"
        )


def source(
    name: str,
    paths: Sequence[pathlib.Path],
    image_shape: tuple[int, int, int],
    enlarge: bool,
    resident_bytes: int = 0,
    threads: int = 8,
    resize: str = image_ops.BICUBIC,
) -> data_source.Source:
    """Makes a source of files without classes.

    Args:
      resident_bytes: sets that take at most this much are read into memory; others are
        decoded on demand.
      threads: that decode; 0 is one.
      resize: how, see `images.resize`.

    Raises:
      UserError: the network takes neither grey nor RGB images.
    """
    check_channels(name, image_shape[-1])

    def decode(index):
        return read(paths[index], image_shape, enlarge, resize)

    def reader(indices):
        with concurrent.futures.ThreadPoolExecutor(max(threads, 1)) as pool:
            return np.stack(list(pool.map(decode, indices)))

    labels = np.zeros(len(paths), np.int32)
    return data_source.from_reader(
        name, "test", reader, labels, ("",), image_shape, resident_bytes
    )
