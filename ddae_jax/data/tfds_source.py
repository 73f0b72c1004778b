"""Data sets prepared by TensorFlow Datasets, read without TensorFlow.

A prepared set is a folder DATA_DIR/NAME[/CONFIG]/VERSION. It is looked for on disk
before TFDS is asked for anything, because TFDS goes to the network for sets it does not
find and tries again for minutes.
"""

import contextlib
import http.client
import importlib.util
import os
import pathlib
import queue
import re
import ssl
import threading
import time
import urllib.error
import urllib.request

import numpy as np

from ddae_jax.data import images as image_ops
from ddae_jax.data import source
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import check_regular

_HOSTS = (
    "https://storage.googleapis.com",  # TFDS's own
    "https://www.cs.toronto.edu",  # CIFAR's
    "https://pypi.org",
)
_PATIENCE = 4.0  # seconds
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def default_data_dir() -> pathlib.Path:
    """Where TFDS keeps its data: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    default = pathlib.Path.home() / "tensorflow_datasets"
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or default)


def find(name: str, data_dir: str | os.PathLike | None) -> pathlib.Path | None:
    """Returns the folder of the newest prepared version of a set, or None.

    `name` is NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION. The network is
    not used.
    """
    base = pathlib.Path(data_dir) if data_dir else default_data_dir()
    path, _, version = name.partition(":")
    folder = base / path
    versions = _versions(folder)
    if not versions and "/" not in path and folder.is_dir():
        configs = [entry for entry in sorted(folder.iterdir()) if _versions(entry)]
        if len(configs) > 1:
            known = ", ".join(f"{path}/{config.name}" for config in configs)
            raise UserError(f"{name}: several configurations in {folder}: {known}")
        versions = _versions(configs[0]) if configs else []
    if version:
        versions = [entry for entry in versions if entry.name == version]
    return versions[-1] if versions else None


def load(
    name: str,
    split: str,
    folder: pathlib.Path,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns a split of the prepared set in `folder` (what `find` returned).

    Args:
      split: a split of the set; "test" means "validation" where there is no test set.
      image_size: images of one size are padded to it; sets with images of many sizes
        need it: they are resized and their centre is cropped.
    """
    import tensorflow_datasets as tfds

    with _one_line_errors(folder):
        for entry in folder.iterdir():
            if not entry.is_dir():
                check_regular(entry)  # TFDS would wait for the writer of a named pipe
        builder = tfds.builder_from_directory(folder)
    info = builder.info
    image_key, label_key = _keys(info, folder)
    split = _known_split(name, split, info)
    shape = info.features[image_key].shape
    channels = channels or shape[-1]
    if None in shape[:2] and image_size is None:
        raise UserError(f"{folder}: images of many sizes: set image_size")
    decoded_size = image_size if None in shape[:2] else None
    shards = _checked_shards(info.splits[split])
    # Images stay undecoded here: labels are then cheap to list, and a broken image can
    # be named.
    records = builder.as_data_source(
        split, decoders={image_key: tfds.decode.SkipDecoding()}
    )

    def record(index):
        with _one_line_errors(shards[np.searchsorted(ends, index, side="right")]):
            return records[index]

    ends = np.cumsum(info.splits[split].shard_lengths)
    labels = np.array([record(i)[label_key] for i in range(len(records))], np.int32)
    if len(labels) == 0 or labels.min() < 0:
        raise UserError(f"{folder}: split {split} has no labels")

    def decode(index):
        where = f"{folder}, {split} record {index}"
        content = record(int(index))[image_key]
        image = image_ops.decode(content, where, decoded_size, channels, resize)
        if decoded_size is None and image.shape[:2] != tuple(shape[:2]):
            raise UserError(f"{where}: {image.shape}, features.json says {shape}")
        return image_ops.fit(image[None], image_size, resize)[0]

    return source.from_reader(
        name,
        split,
        lambda indices: np.stack([decode(index) for index in indices]),
        labels,
        info.features[label_key].names,
        decode(0).shape,
        resident_bytes,
    )


def prepare(name: str, data_dir: str | os.PathLike | None) -> pathlib.Path:
    """Downloads a set and writes it as array_record; needs TensorFlow and a network.

    Returns:
      the folder of the prepared set. One that is already there is left as it is.
    """
    found = find(name, data_dir)
    if found is not None:
        return found
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name}: preparing needs TensorFlow: pip install 'ddae_jax[prepare]'"
        )
    check_network(name)
    import tensorflow_datasets as tfds

    base = pathlib.Path(data_dir) if data_dir else default_data_dir()
    try:
        builder = tfds.builder(name, data_dir=base, file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # network, disk, checksums: TFDS raises many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{name}: could not be prepared: {reason}") from error
    return pathlib.Path(builder.data_path)


def check_network(name: str) -> None:
    """Raises a UserError, within five seconds, where there is no network.

    TFDS would try again for minutes. One of several hosts is enough, whatever it
    answers: which one a set comes from only TFDS knows. Proxies are used as TFDS does.
    """
    reasons = []

    def reach(url):
        try:
            # An opener of its own: the shared one keeps the proxies of its first call.
            with urllib.request.build_opener().open(url, timeout=_PATIENCE):
                return True
        except urllib.error.HTTPError:
            return True  # an answer
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(" ".join(str(error).split())[:100] or type(error).__name__)
            # Its certificate is not known here, so there is somebody.
            return isinstance(error, urllib.error.URLError) and isinstance(
                error.reason, ssl.SSLError
            )

    answers = queue.SimpleQueue()
    for url in _HOSTS:
        # A thread that nobody waits for: looking up a name knows no time limit.
        ask = threading.Thread(target=lambda url=url: answers.put(reach(url)))
        ask.daemon = True
        ask.start()
    end = time.monotonic() + _PATIENCE
    for _ in _HOSTS:
        try:
            if answers.get(timeout=max(end - time.monotonic(), 0)):
                return
        except queue.Empty:
            reasons.append(f"no answer in {_PATIENCE:.0f} s")
            break
    raise UserError(
        f"{name}: cannot be downloaded, there is no network ({reasons[0]}); prepare it "
        "where there is one, and set config.data.folder to a copy"
    )


def _versions(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the prepared versions in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        entry
        for entry in folder.iterdir()
        if _VERSION.fullmatch(entry.name) and (entry / "dataset_info.json").is_file()
    ]
    usable = [entry for entry in found if any(entry.glob("*array_record*"))]
    if found and not usable:
        raise UserError(
            f"{found[0]}: prepared in another format than array_record, which only "
            "TensorFlow reads; use --task=prepare with another data folder"
        )
    return sorted(
        usable, key=lambda entry: tuple(int(part) for part in entry.name.split("."))
    )


def _keys(info, folder: pathlib.Path) -> tuple[str, str]:
    """Returns the names of the image and of the class label."""
    import tensorflow_datasets as tfds

    images, labels = (
        [key for key, feature in info.features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    image, label = info.supervised_keys or (None, None)
    if image in images and label in labels:
        return image, label
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{folder}: not a set of images with one class each: "
            f"images {images}, labels {labels}"
        )
    return images[0], labels[0]


def _known_split(name: str, split: str, info) -> str:
    if split == "test" and "test" not in info.splits and "validation" in info.splits:
        return "validation"
    if split not in info.splits:
        known = ", ".join(sorted(info.splits))
        raise UserError(f"{name}: no split {split!r}, known: {known}")
    return split


def _checked_shards(split_info) -> list[pathlib.Path]:
    """Returns the files of a split; a missing or damaged one is a UserError."""
    from array_record.python import array_record_module

    shards = [pathlib.Path(path) for path in split_info.filepaths]
    for path, count in zip(shards, split_info.shard_lengths, strict=True):
        if not path.is_file():
            raise UserError(f"{path}: missing")
        with _one_line_errors(path):
            found = array_record_module.ArrayRecordReader(str(path)).num_records()
        if found != count:
            raise UserError(f"{path}: damaged: {found} records, expected {count}")
    return shards


@contextlib.contextmanager
def _one_line_errors(path: pathlib.Path):
    """Turns what TFDS and array_record raise for damaged files into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path}: cannot be read: {reason}") from error
