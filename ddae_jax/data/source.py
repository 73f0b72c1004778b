"""A labelled set of images with random access, in memory or decoded on demand."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int, Num, UInt8

from ddae_jax.data import images as image_ops
from ddae_jax.data.form import IMAGES, Form
from ddae_jax.errors import UserError
from ddae_jax.runtime import memory

RESIDENT_BYTES = 1 << 30
_CHUNK = 256  # images that one thread decodes at a time while a set is loaded

Reader = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of a data set.

    Attributes:
      name: the data set.
      split: "train" or "test" (or a split that TFDS knows).
      labels: class of each image, 0 to len(class_names) - 1.
      class_names: in the order of the labels.
      image_shape: (height, width, channels).
      reader: indices -> rows, uint8 NHWC.
      images: all rows, where they are in memory, else None.
      form: what the rows are.
    """

    name: str
    split: str
    labels: Int[np.ndarray, "count"] = dataclasses.field(repr=False)
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    reader: Reader = dataclasses.field(repr=False)
    images: Num[np.ndarray, "count *row"] | None = dataclasses.field(
        default=None, repr=False
    )
    form: Form = IMAGES

    def __len__(self) -> int:
        return len(self.labels)

    def check_images(self) -> None:
        """Raises a UserError where rows are no images."""
        if not self.form.are_images:
            raise UserError(
                f"config.data.name: {self.name} holds no images; name the images that "
                "were encoded"
            )

    def read(
        self, indices: Int[np.ndarray, "batch"] | Sequence[int]
    ) -> Num[np.ndarray, "batch height width channels"]:
        """Returns the images at `indices`; an unreadable file is a UserError.

        Of latents, their normalised means.
        """
        return self.form.still(self.read_rows(indices))

    def read_rows(
        self, indices: Int[np.ndarray, "batch"] | Sequence[int]
    ) -> Num[np.ndarray, "batch *row"]:
        """Returns the rows at `indices` as the form has them."""
        indices = np.asarray(indices)
        return self.reader(indices) if self.images is None else self.images[indices]


def from_reader(
    name: str,
    split: str,
    reader: Reader,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    resident_bytes: int = RESIDENT_BYTES,
    form: Form = IMAGES,
) -> Source:
    """Makes a source; its images are read into memory if they take at most
    `resident_bytes`."""
    labels = np.asarray(labels, np.int32)
    images = None
    row_shape = form.row_shape(tuple(image_shape))
    need = len(labels) * int(np.prod(row_shape)) * np.dtype(form.dtype).itemsize
    if need <= resident_bytes:
        memory.check(
            need,
            f"config.data.resident_bytes: {name} ({len(labels)} images)",
            f"lower it below {need} to read the images while training",
        )
        images = _read_all(reader, len(labels), row_shape, form.dtype)
    names = tuple(class_names)
    return Source(name, split, labels, names, tuple(image_shape), reader, images, form)


def from_arrays(
    name: str,
    split: str,
    images: UInt8[np.ndarray, "count height width channels"],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    image_size: int | None = None,
    channels: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
    resize: str = image_ops.BICUBIC,
) -> Source:
    """Makes a source of decoded images, brought to `image_size` and converted."""

    def reader(indices):
        chosen = image_ops.convert_channels(images[indices], channels)
        return image_ops.fit(chosen, image_size, resize)

    shape = reader(np.arange(1)).shape[1:]
    return from_reader(name, split, reader, labels, class_names, shape, resident_bytes)


def subset(source: Source, indices: Int[np.ndarray, "count"] | Sequence[int]) -> Source:
    """Returns the source of the images at `indices`, in that order."""
    indices = np.asarray(indices, np.int64)
    images = None if source.images is None else source.images[indices]
    return dataclasses.replace(
        source,
        labels=source.labels[indices],
        reader=lambda chosen: source.read_rows(indices[chosen]),
        images=images,
    )


def first(source: Source, count: int) -> Source:
    """Returns the source of the first `count` images; 0 means all."""
    if not count or count >= len(source):
        return source
    return subset(source, np.arange(count))


def held_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits a training source in two, for choices made without the test set.

    Returns:
      what remains for training, and the held-out part: those of `held_out_mask`.
    """
    chosen = held_out_mask(source, fraction, seed)
    return subset(source, np.flatnonzero(~chosen)), subset(
        source, np.flatnonzero(chosen)
    )


def held_out_mask(
    source: Source, fraction: float, seed: int
) -> Bool[np.ndarray, "count"]:
    """Marks the images of a training source that are held out.

    The split is stratified: each class gives `fraction` of its images, rounded, and
    keeps at least one. It depends on the labels and `seed` alone.
    """
    if not 0 < fraction < 1:
        raise UserError(f"held-out fraction is {fraction}, it must be between 0 and 1")
    chosen = np.zeros(len(source), bool)
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        count = min(round(fraction * len(members)), len(members) - 1)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        chosen[members[order[:count]]] = True
    if not chosen.any():
        raise UserError(
            f"held-out fraction is {fraction}, which leaves none of the "
            f"{len(source)} images of {source.name}"
        )
    return chosen


def _read_all(
    reader: Reader, count: int, shape: tuple[int, ...], dtype: str
) -> np.ndarray:
    images = np.empty((count, *shape), dtype)

    def fill(start):
        stop = min(start + _CHUNK, count)
        images[start:stop] = reader(np.arange(start, stop))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        # Taking the results raises the first error of a thread here.
        for _ in pool.map(fill, range(0, count, _CHUNK)):
            pass
    return images


def check_classes(train: Source, field: str) -> None:
    """Raises a UserError where no classifier can be trained on `train`.

    Args:
      field: of the config: how many images of the training set are used.
    """
    classes = len(train.class_names)
    if classes < 2 or len(np.unique(train.labels)) < 2:
        raise UserError(
            f"config.data.name: the {len(train)} training images used of {train.name} "
            f"are of one class; a classifier needs two ({field} takes the first images)"
        )
    if len(train) < classes:
        raise UserError(
            f"{field}: {len(train)} training images of {train.name} are fewer than its "
            f"{classes} classes"
        )
