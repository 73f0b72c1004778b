"""Data sets by name."""

import dataclasses
import difflib
import inspect
import os
import pathlib
from typing import Protocol

from ddae_jax.data import (
    arrays,
    cifar_archive,
    digits,
    idx,
    image_folder,
    latents,
    person_sets,
    person_synthetic,
    tfds_source,
    tiny_imagenet,
)
from ddae_jax.data import images as image_ops
from ddae_jax.data.source import RESIDENT_BYTES, Source
from ddae_jax.errors import UserError

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
_FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TFDS_PREFIX = "tfds:"
SPLITS = ("train", "test")


class LoadSplit(Protocol):
    """The function that reads one split of a data set."""

    def __call__(
        self,
        split: str,
        *,
        folder: str | None,
        image_size: int | None,
        channels: int | None,
        resident_bytes: int,
        resize: str = image_ops.BICUBIC,
    ) -> Source:
        """Returns "train" or "test"; the arguments are those of `load`.

        A function that resizes nothing, or in one way alone, need not take `resize`:
        it is given only what differs from the default.
        """


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a name in a config stands for.

    Attributes:
      load: reads one split.
      enlarges: images smaller than wanted are resized, those that a task reads beside
        the set too; else they get a black margin.
      prepared_by_tfds: --task=prepare can download it.
    """

    load: LoadSplit
    enlarges: bool = False
    prepared_by_tfds: bool = False


def load(
    name: str,
    split: str,
    *,
    folder: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    resize: str = image_ops.BICUBIC,
) -> Source:
    """Returns one split of a data set. The network is never used.

    Args:
      name: a key of SOURCES, or "tfds:NAME" for any TFDS image-classification set.
      split: "train" or "test"; for "tfds:NAME" any split of the set.
      folder: where the files are; the default depends on the set.
      image_size: side of the images. Sets of one size are padded evenly with zeros
        (or resized, if they are larger); folders of images are resized, their centre
        cropped.
      channels: 1 or 3 converts between grey and RGB; by default nothing is converted.
      resident_bytes: sets that take at most this much are read into memory.
      resize: how, where images are resized, see `images.resize`.

    Raises:
      UserError: unknown name, split or way of resizing, data that is not there (with
        what would bring it), or a damaged file (with its name).
    """
    image_ops.check_wanted(image_size, channels, resize)
    options = {
        "image_size": image_size,
        "channels": channels,
        "resident_bytes": resident_bytes,
    }
    if resize != image_ops.BICUBIC:
        options["resize"] = resize
    if name.startswith(TFDS_PREFIX):
        return _load_tfds(name)(split, folder=folder, **options)
    _check_name(name)
    if split not in SPLITS:
        raise UserError(f"{name}: no split {split!r}, known: {', '.join(SPLITS)}")
    if folder is not None and not pathlib.Path(folder).exists():
        raise UserError(f"{name}: folder {folder} does not exist")
    load_split = SOURCES[name].load
    if "resize" in options and not _takes_resize(load_split):
        raise UserError(
            f"config.data.resize: {name} was registered with a function that does not "
            f"take resize; leave it at {image_ops.BICUBIC}"
        )
    return load_split(split, folder=folder, **options)


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """Downloads and prepares a set through TFDS; returns its folder.

    Raises:
      UserError: the set does not come from TFDS, TensorFlow is not installed, or the
        preparation failed.
    """
    if name.startswith(TFDS_PREFIX):
        return tfds_source.prepare(name.removeprefix(TFDS_PREFIX), data_dir)
    _check_name(name)
    if not SOURCES[name].prepared_by_tfds:
        can = [one for one, data_set in SOURCES.items() if data_set.prepared_by_tfds]
        known = ", ".join((*can, f"{TFDS_PREFIX}NAME"))
        raise UserError(
            f"{name}: nothing to prepare, it is read as it is; can: {known}"
        )
    return tfds_source.prepare(name, data_dir)


def _takes_resize(load_split: LoadSplit) -> bool:
    parameters = inspect.signature(load_split).parameters.values()
    return any(
        one.name == "resize" or one.kind == one.VAR_KEYWORD for one in parameters
    )


def _load_cifar(name: str) -> LoadSplit:
    def load_split(split, *, folder, **options):
        path = cifar_archive.find(name, folder) if folder is not None else None
        if path is not None:
            return cifar_archive.load(name, split, path, **options)
        prepared = tfds_source.find(name, folder)
        if prepared is not None:
            return tfds_source.load(name, split, prepared, **options)
        archive = cifar_archive.ARCHIVES[name]
        raise UserError(
            f"{name}: not found in {folder or tfds_source.default_data_dir()}; "
            f"--task=prepare downloads it, or set the folder that holds "
            f"{archive.packed} or {archive.unpacked}"
        )

    return load_split


def _load_fashion_mnist(split, *, folder, **options):
    paths = idx.find(folder or FASHION_MNIST_FOLDER, split)
    if paths is not None:
        return idx.load_pair(
            "fashion_mnist", split, paths, _FASHION_MNIST_CLASSES, **options
        )
    prepared = tfds_source.find("fashion_mnist", folder)
    if prepared is not None:
        return tfds_source.load("fashion_mnist", split, prepared, **options)
    raise UserError(
        f"fashion_mnist: not found in {folder or FASHION_MNIST_FOLDER}; "
        "apt-get install dataset-fashion-mnist, or --task=prepare, or set the folder "
        "that holds train-images-idx3-ubyte.gz"
    )


def _load_tfds(name: str) -> LoadSplit:
    tfds_name = name.removeprefix(TFDS_PREFIX)

    def load_split(split, *, folder, **options):
        prepared = tfds_source.find(tfds_name, folder)
        if prepared is None:
            place = folder or tfds_source.default_data_dir()
            raise UserError(
                f"{name}: no prepared set in {place}; --task=prepare downloads it, or "
                f"set the folder that holds {tfds_name.partition(':')[0]}/VERSION"
            )
        return tfds_source.load(name, split, prepared, **options)

    return load_split


def _check_name(name: str) -> None:
    if name in SOURCES:
        return
    known = ", ".join((*SOURCES, f"{TFDS_PREFIX}NAME"))
    near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.4)
    nearest = f" (nearest: {near[0]})" if near else ""
    raise UserError(f"unknown data set {name!r}{nearest}, known: {known}")


SOURCES: dict[str, DataSet] = {
    "digits": DataSet(digits.load),
    "fashion_mnist": DataSet(_load_fashion_mnist, prepared_by_tfds=True),
    "idx": DataSet(idx.load),
    "cifar10": DataSet(_load_cifar("cifar10"), prepared_by_tfds=True),
    "cifar100": DataSet(_load_cifar("cifar100"), prepared_by_tfds=True),
    image_folder.NAME: DataSet(image_folder.load, enlarges=True),
    "tiny_imagenet": DataSet(tiny_imagenet.load, enlarges=True),
    latents.NAME: DataSet(latents.load),
    arrays.NAME: DataSet(arrays.load),
    **{
        name: DataSet(person_sets.as_source(name), enlarges=True)
        for name in (person_synthetic.NAME, *person_sets.SETS)
    },
}
"""Name in a config -> data set."""


def register_source(name: str, load_split: LoadSplit, enlarges: bool = False) -> None:
    """Makes a data set known to configs, as `name`.

    Args:
      load_split: reads one split.
      enlarges: see `DataSet`.

    Raises:
      UserError: the name belongs to another data set.
    """
    data_set = DataSet(load_split, enlarges)
    if SOURCES.get(name, data_set) != data_set:
        raise UserError(f"there is a data set {name!r} already")
    SOURCES[name] = data_set
