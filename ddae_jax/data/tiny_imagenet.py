"""Tiny-ImageNet's layout: train/WNID/images/*.JPEG, val/val_annotations.txt."""

import os
import pathlib

from ddae_jax.data import image_folder, source
from ddae_jax.data import images as image_ops
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import read_regular

_UNPACKED = "tiny-imagenet-200"


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns Tiny-ImageNet from its unpacked folder; "test" is its validation set.

    Its own test set has no labels. Some of its files are grey: they become RGB unless
    `channels` is 1.
    """
    hint = (
        f"set the folder that holds {_UNPACKED} "
        "(http://cs231n.stanford.edu/tiny-imagenet-200.zip, unzipped)"
    )
    if folder is None:
        raise UserError(f"tiny_imagenet: {hint}")
    root = pathlib.Path(folder)
    if (root / _UNPACKED).is_dir():
        root = root / _UNPACKED
    if not (root / "train").is_dir():
        raise UserError(f"tiny_imagenet: {root} holds no folder train; {hint}")
    classes = sorted(
        entry.name for entry in os.scandir(root / "train") if entry.is_dir()
    )
    if not classes:
        raise UserError(f"{root / 'train'}: holds no class folders")
    read = _train_files if split == "train" else _validation_files
    paths, labels = read(root, classes)
    return image_folder.from_files(
        "tiny_imagenet",
        split,
        paths,
        labels,
        _words(root, classes),
        image_size,
        channels or 3,
        resident_bytes,
        resize,
    )


def _train_files(
    root: pathlib.Path, classes: list[str]
) -> tuple[list[pathlib.Path], list[int]]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        members = image_folder.image_files(root / "train" / name)
        if not members:
            raise UserError(f"{root / 'train' / name}: class folder without images")
        paths += members
        labels += [label] * len(members)
    return paths, labels


def _validation_files(
    root: pathlib.Path, classes: list[str]
) -> tuple[list[pathlib.Path], list[int]]:
    table, folder = root / "val" / "val_annotations.txt", root / "val" / "images"
    lines = _lines(table)
    numbers = {name: label for label, name in enumerate(classes)}
    labelled = {}
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in numbers:
            raise UserError(f"{table}: line {number} names no class of train: {line!r}")
        labelled[folder / fields[0]] = numbers[fields[1]]
    files = image_folder.image_files(folder)
    if not files:
        raise UserError(f"{folder}: holds no images")
    for path in files:
        if path not in labelled:
            raise UserError(f"{table}: no label for {path}")
    missing = sorted(set(labelled) - set(files))
    if missing:
        raise UserError(f"{missing[0]}: missing, but listed in {table}")
    return files, [labelled[path] for path in files]


def _words(root: pathlib.Path, classes: list[str]) -> list[str]:
    """Returns the classes' names in English where words.txt gives them."""
    table = root / "words.txt"
    if not table.exists():
        return classes
    pairs = [line.partition("\t") for line in _lines(table)]
    words = {name: text for name, _, text in pairs if text}
    return [words.get(name, name) for name in classes]


def _lines(table: pathlib.Path) -> list[str]:
    try:
        return read_regular(table).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot be read ({error})") from error
