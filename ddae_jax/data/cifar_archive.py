"""CIFAR-10 and CIFAR-100 as their "python version" archive, packed or unpacked.

The archive holds pickles; `safe_unpickle` reads them, so a file can do no harm.
"""

import dataclasses
import os
import pathlib
import tarfile
import zlib

import numpy as np
from einops import rearrange

from ddae_jax.data import images as image_ops
from ddae_jax.data import source
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import open_regular, read_regular
from ddae_jax.runtime.safe_pickle import safe_unpickle


@dataclasses.dataclass(frozen=True)
class Archive:
    """Names inside one of the archives."""

    packed: str
    unpacked: str
    batches: dict[str, tuple[str, ...]]
    meta: str
    label_key: str
    names_key: str


ARCHIVES = {
    "cifar10": Archive(
        packed="cifar-10-python.tar.gz",
        unpacked="cifar-10-batches-py",
        batches={
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        meta="batches.meta",
        label_key="labels",
        names_key="label_names",
    ),
    "cifar100": Archive(
        packed="cifar-100-python.tar.gz",
        unpacked="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        meta="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
}
_PIXELS = 3 * 32 * 32


def find(name: str, folder: str | os.PathLike) -> pathlib.Path | None:
    """Returns the archive or unpacked folder of `name` in (or at) `folder`, or None."""
    archive, folder = ARCHIVES[name], pathlib.Path(folder)
    # What is there but no regular file is named when it is read.
    if folder.name == archive.packed and folder.exists() and not folder.is_dir():
        return folder
    for candidate in (folder, folder / archive.unpacked):
        if (candidate / archive.batches["train"][0]).exists():
            return candidate
    packed = folder / archive.packed
    return packed if packed.exists() else None


def load(
    name: str,
    split: str,
    path: pathlib.Path,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns a split of `name` from what `find` returned."""
    archive = ARCHIVES[name]
    files = _read_files(path, (*archive.batches[split], archive.meta), archive)
    where, meta = files.pop()
    class_names = _class_names(_entry(meta, archive.names_key, where), where)
    images, labels = [], []
    for where, batch in files:
        pixels = _entry(batch, "data", where)
        classes = _labels(_entry(batch, archive.label_key, where), where)
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.ndim != 2
            or pixels.shape[1] != _PIXELS
            or len(pixels) == 0
        ):
            raise UserError(f"{where}: data is not uint8 of shape (images, {_PIXELS})")
        if len(classes) != len(pixels):
            raise UserError(f"{where}: {len(classes)} labels, {len(pixels)} images")
        if not 0 <= min(classes) <= max(classes) < len(class_names):
            raise UserError(f"{where}: a label is outside 0..{len(class_names) - 1}")
        images.append(rearrange(pixels, "n (c h w) -> n h w c", c=3, h=32))
        labels.extend(classes)
    return source.from_arrays(
        name,
        split,
        np.concatenate(images),
        labels,
        class_names,
        image_size,
        channels,
        resident_bytes,
        resize,
    )


def _class_names(found: object, where: str) -> tuple[str, ...]:
    """The names, which Python 2 wrote as bytes."""
    if not isinstance(found, list | tuple) or not found:
        raise UserError(f"{where}: class names are a {type(found).__name__}, not names")
    try:
        names = [text.decode() if isinstance(text, bytes) else text for text in found]
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: class names are not UTF-8 ({error})") from error
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{where}: {name!r:.40} as the name of a class")
    return tuple(names)


def _labels(found: object, where: str) -> list[int]:
    if isinstance(found, np.ndarray):
        found = found.tolist()
    if not isinstance(found, list | tuple):
        raise UserError(
            f"{where}: labels are a {type(found).__name__}, not a list of numbers"
        )
    for label in found:
        if not isinstance(label, int | np.integer) or isinstance(label, bool):
            raise UserError(f"{where}: {label!r:.40} as a label, not a number")
    return [int(label) for label in found]


def _entry(batch: object, key: str, where: str):
    """Looks up a key that Python 2 wrote as bytes and Python 3 as text."""
    if isinstance(batch, dict):
        for spelling in (key.encode(), key):
            if spelling in batch:
                return batch[spelling]
    raise UserError(f"{where}: has no entry {key!r}")


def _read_files(
    path: pathlib.Path, names: tuple[str, ...], archive: Archive
) -> list[tuple[str, object]]:
    """Returns (what errors call it, content) of each file."""
    if path.is_dir():
        files = []
        for name in names:
            try:
                content = read_regular(path / name)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise UserError(f"{path / name}: cannot be read ({reason})") from error
            files.append((str(path / name), safe_unpickle(content, str(path / name))))
        return files
    contents = {}
    try:
        with open_regular(path) as stream, tarfile.open(fileobj=stream) as tar:
            for member in tar:
                name = pathlib.PurePosixPath(member.name).name
                if name in names and member.isfile():
                    contents[name] = tar.extractfile(member).read()
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path}: corrupt or truncated archive ({error})") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{path}: has no {archive.unpacked}/{missing[0]}")
    return [
        (f"{path}:{name}", safe_unpickle(contents[name], f"{path}:{name}"))
        for name in names
    ]
