"""Folders of image files: root/train/CLASS/*.png, root/test (or val)/CLASS/*.png."""

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from ddae_jax.data import images as image_ops
from ddae_jax.data import source
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import check_regular

EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
) -> source.Source:
    """Returns the images below root/SPLIT, one folder a class, as torchvision lays out.

    Classes are numbered in the alphabetical order of the training folders. Without
    `image_size` all files must have one size; with it, each is resized and its centre
    cropped. Without `channels` all must be grey or all RGB.
    """
    if folder is None:
        raise UserError("image_folder: set the folder that holds train/CLASS/*.png")
    root = pathlib.Path(folder)
    train = _split_folder(root, "train")
    class_names = _class_names(train)
    place = train if split == "train" else _split_folder(root, split)
    unknown = sorted(set(_class_names(place)) - set(class_names))
    if unknown:
        raise UserError(f"{place / unknown[0]}: no such class in {train}")
    paths, labels = [], []
    for name in _class_names(place):
        members = image_files(place / name)
        if not members:
            raise UserError(f"{place / name}: class folder without images")
        paths += members
        labels += [class_names.index(name)] * len(members)
    return from_files(
        "image_folder",
        split,
        paths,
        labels,
        class_names,
        image_size,
        channels,
        resident_bytes,
    )


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files below `folder`, at any depth, sorted.

    Raises:
      UserError: what has the name of an image is no regular file, or a broken link.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.is_dir()
    )
    for path in found:
        try:
            check_regular(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return found


def from_files(
    name: str,
    split: str,
    paths: Sequence[pathlib.Path],
    labels: Sequence[int],
    class_names: Sequence[str],
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
) -> source.Source:
    """Returns the source of image files that are decoded on demand."""
    first = image_ops.decode(paths[0], str(paths[0]), image_size, channels)
    shape = first.shape
    resident = len(paths) * first.size <= resident_bytes
    if image_size is None and not resident:
        # Read-into-memory checks every file; here a wrong one would only come to
        # light in the middle of training.
        _check_sizes(paths, shape)

    def reader(indices):
        batch = np.empty((len(indices), *shape), np.uint8)
        for row, index in enumerate(indices):
            path = paths[index]
            image = image_ops.decode(path, str(path), image_size, channels)
            if image.shape != shape:
                raise UserError(_difference(path, image.shape, paths[0], shape))
            batch[row] = image
        return batch

    return source.from_reader(
        name, split, reader, labels, class_names, shape, resident_bytes
    )


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    names = " or ".join(_SPLIT_FOLDERS[split])
    raise UserError(f"image_folder: {root} holds no folder {names}")


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not names:
        raise UserError(f"{folder}: holds no class folders")
    return tuple(names)


def _check_sizes(paths: Sequence[pathlib.Path], shape: tuple[int, ...]) -> None:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = pool.map(image_ops.header_size, paths)
        for path, size in zip(paths, sizes, strict=True):
            if size != shape[:2]:
                given = (*size, shape[2])
                raise UserError(_difference(path, given, paths[0], shape))


def _difference(path, shape, first, first_shape) -> str:
    if shape[:2] == first_shape[:2]:
        return (
            f"{path}: {shape[2]} channels, but {first} has {first_shape[2]}; "
            "set channels to convert"
        )
    return (
        f"{path}: {shape[0]}x{shape[1]} pixels, but {first} has "
        f"{first_shape[0]}x{first_shape[1]}; set image_size to resize"
    )
