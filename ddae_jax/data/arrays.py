"""A data set of numpy files in a folder, as the Python interface writes them.

SPLIT_images.npy    uint8 (images, height, width, 1 or 3)
SPLIT_labels.npy    integers from 0 on; where it is missing, all are of one class
arrays.json         {"class_names": [...]}; where it is missing, their numbers
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from ddae_jax.data import images as image_ops
from ddae_jax.data.source import Source, from_arrays
from ddae_jax.errors import UserError
from ddae_jax.runtime import files

NAME = "arrays"
ABOUT = "arrays.json"


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> Source:
    """Returns one split; the images are mapped where they are not read into memory.

    Raises:
      UserError: no folder is named, or it does not hold such files.
    """
    if folder is None:
        raise UserError("config.data.folder: name the folder that holds the .npy files")
    root = pathlib.Path(folder)
    images = _array(root / f"{split}_images.npy")
    check_images(images, str(root / f"{split}_images.npy"))
    path = root / f"{split}_labels.npy"
    labels = _array(path) if path.exists() else np.zeros(len(images), np.int32)
    names = _class_names(root, labels, path)
    if labels.shape != (len(images),):
        raise UserError(f"{path}: shape {labels.shape} for {len(images)} images")
    return from_arrays(
        NAME,
        split,
        images,
        labels,
        names,
        image_size,
        channels,
        resident_bytes,
        resize,
    )


def write(
    folder: pathlib.Path,
    split: str,
    images: UInt8[np.ndarray, "count height width channels"],
    labels: Int[np.ndarray, "count"],
    class_names: Sequence[str],
) -> None:
    """Writes one split, each file whole or not at all, the images last."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / ABOUT, {"class_names": list(class_names)})
    for name, array in (("labels", labels), ("images", images)):
        with (
            files.replacing(folder / f"{split}_{name}.npy") as part,
            part.open("wb") as file,
        ):
            np.save(file, array)


def check_images(images: np.ndarray, name: str) -> None:
    """Raises a UserError where an array does not hold images of a data set."""
    if images.dtype != np.uint8:
        raise UserError(f"{name}: type {images.dtype}; images are uint8, 0 to 255")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"{name}: shape {images.shape}; (images, height, width, 1 or 3) is wanted"
        )


def _array(path: pathlib.Path) -> np.ndarray:
    try:
        return files.map_array(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error


def _class_names(root, labels, path) -> tuple[str, ...]:
    if labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise UserError(f"{path}: labels are integers from 0 on")
    highest = int(labels.max(initial=0))
    try:
        names = files.read_object(root / ABOUT).get("class_names")
    except FileNotFoundError:
        return tuple(map(str, range(highest + 1)))
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{root / ABOUT}: class_names is no list of names")
    if len(names) <= highest:
        raise UserError(f"{path}: label {highest}, but {ABOUT} has {len(names)} names")
    return tuple(names)
