"""Folders of image files, one folder a class.

root/train/CLASS/*.png and root/test (or val)/CLASS/*.png, or root/CLASS/*.png, which
are split here.
"""

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from ddae_jax.data import images as image_ops
from ddae_jax.data import source
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import check_regular

NAME = "image_folder"  # in SOURCES
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
TEST_SHARE = 0.2  # of each class, of a folder that is not split
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns the images below root/SPLIT, one folder a class, as torchvision lays out.

    A root that holds folders of classes alone is split by the names of its files, see
    `test_part`. The set is called as the folder is. Classes are numbered in the
    alphabetical order of the training folders; hidden folders are none. Without
    `image_size` all files must have one size; with it, each is resized and its centre
    cropped. Without `channels` all must be grey or all RGB.
    """
    if folder is None:
        raise UserError(
            "config.data.folder: set the folder that holds CLASS/*.png, or "
            "train/CLASS/*.png and test/CLASS/*.png"
        )
    root = pathlib.Path(folder)
    name = root.resolve().name or NAME
    if _is_split(root):
        classes, files = _of_split_folder(root, split)
    else:
        classes, files = _of_classes(root, split)
    paths, labels = [], []
    for label, members in files.items():
        paths += members
        labels += [label] * len(members)
    return from_files(
        name,
        split,
        paths,
        labels,
        classes,
        image_size,
        channels,
        resident_bytes,
        resize,
    )


def test_part(
    members: Sequence[pathlib.Path], folder: pathlib.Path
) -> set[pathlib.Path]:
    """Returns which images of a class are for testing: a fifth, at least one of two.

    Those whose names, seen from `folder`, have the smallest hashes: the same wherever
    the folder lies and whatever else it holds.
    """

    def draw(path):
        name = path.relative_to(folder).as_posix()
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    if len(members) < 2:
        return set()
    count = max(round(TEST_SHARE * len(members)), 1)
    return set(sorted(members, key=draw)[:count])


def _of_split_folder(root, split):
    """(names of the classes, label -> files)."""
    train = _split_folder(root, "train")
    class_names = _class_names(train)
    place = train if split == "train" else _split_folder(root, split)
    names = _class_names(place)
    unknown = sorted(set(names) - set(class_names))
    if unknown:
        raise UserError(f"{place / unknown[0]}: no such class in {train}")
    return class_names, {
        class_names.index(name): _members(place / name) for name in names
    }


def _of_classes(root, split):
    """(names of the classes, label -> files) of a root without splits."""
    class_names = _folders(root) if root.is_dir() else ()
    if not class_names:
        raise UserError(
            f"image_folder: {root} holds no folder train and no folders of classes; "
            "images without classes go into one folder in it"
        )
    files, counts = {}, {"train": 0, "test": 0}
    for label, name in enumerate(class_names):
        members = _members(root / name)
        testing = test_part(members, root)
        counts["train"] += len(members) - len(testing)
        counts["test"] += len(testing)
        files[label] = [
            path for path in members if (path in testing) == (split == "test")
        ]
    if not counts["test"]:
        raise UserError(f"{root}: every class has one image, none is left for testing")
    logging.info(
        "image_folder: %s has no folders train and test; by the hashes of the files' "
        "names %d images are for training and %d for testing, a fifth of each class",
        root,
        counts["train"],
        counts["test"],
    )
    return class_names, files


def _members(folder):
    members = image_files(folder)
    if not members:
        raise UserError(f"{folder}: class folder without images")
    return members


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
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns the source of image files that are decoded on demand."""

    def decode(path):
        return image_ops.decode(path, str(path), image_size, channels, resize)

    first = decode(paths[0])
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
            image = decode(path)
            if image.shape != shape:
                raise UserError(_difference(path, image.shape, paths[0], shape))
            batch[row] = image
        return batch

    return source.from_reader(
        name, split, reader, labels, class_names, shape, resident_bytes
    )


def _is_split(root: pathlib.Path) -> bool:
    names = [name for names in _SPLIT_FOLDERS.values() for name in names]
    return any((root / name).is_dir() for name in names)


def _split_folder(root: pathlib.Path, split: str) -> pathlib.Path:
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    names = " or ".join(_SPLIT_FOLDERS[split])
    raise UserError(f"image_folder: {root} holds no folder {names}")


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
    names = _folders(folder)
    if not names:
        raise UserError(f"{folder}: holds no class folders")
    return names


def _folders(folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the folders in it, but hidden ones, which programs make."""
    return tuple(
        sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith(".")
        )
    )


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
