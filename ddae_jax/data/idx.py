"""IDX files (MNIST's format, http://yann.lecun.com/exdb/mnist), raw or gzipped."""

import contextlib
import gzip
import math
import os
import pathlib
import zlib
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from ddae_jax.data import images as image_ops
from ddae_jax.data import source
from ddae_jax.errors import UserError
from ddae_jax.runtime import files, memory

_PREFIX = {"train": "train", "test": "t10k"}
_UINT8 = 0x08  # IDX's type code of unsigned bytes
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_DIMENSIONS = 4  # (N, H, W, C)
_PART = 1 << 24  # bytes read at a time


def find(folder: str | os.PathLike, split: str) -> tuple[pathlib.Path, ...] | None:
    """Returns the files of a split, (images, labels), or None if none is there.

    One file without the other is an error.
    """
    folder = pathlib.Path(folder)
    found = []
    for kind, dimensions in (("images", (3, 4)), ("labels", (1,))):
        names = [
            f"{_PREFIX[split]}-{kind}{dot}idx{dimension}-ubyte{ending}"
            for dimension in dimensions
            for dot in "-."
            for ending in ("", ".gz")
        ]
        # What is there but no regular file is named when it is read.
        paths = [folder / name for name in names if (folder / name).exists()]
        found.append((paths[0] if paths else None, folder / names[0]))
    (images, images_name), (labels, labels_name) = found
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = images_name if images is None else labels_name
        raise UserError(f"{missing}: missing (or {missing.name}.gz)")
    return images, labels


def read(path: str | os.PathLike) -> UInt8[np.ndarray, "..."]:
    """Reads one IDX file of unsigned bytes; a broken file is a UserError."""
    path = pathlib.Path(path)
    try:
        with files.open_regular(path) as stream:
            packed = path.suffix == ".gz" or stream.peek(2)[:2] == _GZIP_MAGIC
            with gzip.open(stream) if packed else contextlib.nullcontext(stream) as raw:
                return _read(path, raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: corrupt or truncated ({error})") from error


def _read(path: pathlib.Path, stream: BinaryIO) -> UInt8[np.ndarray, "..."]:
    """Reads no more than the header says, whatever the file unpacks to."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UINT8:
        raise UserError(
            f"{path}: not an IDX file of bytes: starts with 0x{start.hex()}, "
            "expected 0x000008.."
        )
    dimensions = start[3]
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise UserError(
            f"{path}: its header says {dimensions} dimensions; labels have 1, images "
            "3 or 4"
        )
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise UserError(f"{path}: truncated within its header")
    shape = tuple(int(side) for side in np.frombuffer(header, ">u4"))
    wanted = math.prod(shape)
    parts, size = [], 0
    while size <= wanted and (part := stream.read(min(wanted + 1 - size, _PART))):
        parts.append(part)
        size += len(part)
        if len(parts) == 2:  # the file is as large as its header may say
            memory.check(2 * wanted, f"{path}: {shape}", "it is read in one piece")
    if size != wanted:
        found = f"more than {wanted}" if size > wanted else size
        raise UserError(
            f"{path}: truncated or damaged: header says {wanted} bytes of data "
            f"{shape}, file has {found}"
        )
    return np.frombuffer(b"".join(parts), np.uint8).reshape(shape)


def load_pair(
    name: str,
    split: str,
    paths: tuple[pathlib.Path, ...],
    class_names: tuple[str, ...] | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns the source of an images file (N, H, W or N, H, W, C) and its labels."""
    images_path, labels_path = paths
    images, labels = read(images_path), read(labels_path)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.size == 0:
        raise UserError(
            f"{images_path}: shape {images.shape} is not grey or RGB images"
        )
    if labels.ndim != 1:
        raise UserError(f"{labels_path}: shape {labels.shape} is not one label each")
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {images_path} has "
            f"{len(images)} images"
        )
    if class_names is None:
        class_names = tuple(str(label) for label in range(int(labels.max()) + 1))
    if labels.max() >= len(class_names):
        raise UserError(
            f"{labels_path}: label {labels.max()}, but {name} has "
            f"{len(class_names)} classes"
        )
    return source.from_arrays(
        name,
        split,
        images,
        labels,
        class_names,
        image_size,
        channels,
        resident_bytes,
        resize,
    )


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns the source of the IDX files in `folder`, named as MNIST's are."""
    if folder is None:
        raise UserError("idx: set the folder that holds train-images-idx3-ubyte(.gz)")
    paths = find(folder, split)
    if paths is None:
        raise UserError(
            f"idx: {folder} holds no {_PREFIX[split]}-images-idx3-ubyte(.gz)"
        )
    return load_pair(
        "idx", split, paths, None, image_size, channels, resident_bytes, resize
    )
