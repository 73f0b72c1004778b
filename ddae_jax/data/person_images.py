"""Images of persons: who is seen by which camera, in the parts of a retrieval set."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ddae_jax.data import images as image_ops
from ddae_jax.data import source as data_source
from ddae_jax.data.source import RESIDENT_BYTES, Source
from ddae_jax.errors import UserError

PARTS = ("train", "query", "gallery")
"""Of a set: persons of the training are in neither of the others."""


@dataclasses.dataclass(frozen=True)
class PersonFile:
    """One image file.

    Attributes:
      path: of the file.
      identity: the set's own number of the person; 0: nobody that is asked for.
      camera: the set's own number.
    """

    path: pathlib.Path
    identity: int
    camera: int


@dataclasses.dataclass(frozen=True, eq=False)
class PersonImages:
    """One part of a set.

    Attributes:
      source: the images; their labels are the places of the persons in its
        `class_names`, which the query and the gallery share.
      identities: the set's own number of each image's person; 0: a distractor.
      cameras: number of the camera of each image.
      names: what errors and pictures call each image.
    """

    source: Source
    identities: Int[np.ndarray, "count"] = dataclasses.field(repr=False)
    cameras: Int[np.ndarray, "count"] = dataclasses.field(repr=False)
    names: Sequence[str] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def subset(self, indices: Int[np.ndarray, "some"]) -> "PersonImages":
        """Those at `indices`, in that order; the labels stay what they are."""
        return PersonImages(
            data_source.subset(self.source, indices),
            self.identities[indices],
            self.cameras[indices],
            [self.names[index] for index in indices],
        )


def of_files(
    name: str,
    part: str,
    files: Sequence[PersonFile],
    identities: Sequence[int],
    width: int | None,
    channels: int | None = 3,
    resident_bytes: int = RESIDENT_BYTES,
    resize: str = image_ops.BICUBIC,
) -> PersonImages:
    """Returns the part of a set that lies in image files.

    Args:
      identities: the set's numbers of all persons that labels can stand for.
      width: of the images, which are stretched to it and to twice as many pixels of
        height; None: of the first image as it is.
      channels: 1 or 3; None: 3.
    """
    channels = channels or 3
    first = image_ops.decode(files[0].path, str(files[0].path), None, channels)
    height, width = first.shape[:2] if width is None else (2 * width, width)
    places = {identity: place for place, identity in enumerate(identities)}

    def reader(indices):
        batch = np.empty((len(indices), height, width, channels), np.uint8)
        for row, index in enumerate(indices):
            path = files[index].path
            image = image_ops.decode(path, str(path), None, channels)
            if image.shape[:2] != (height, width):
                image = image_ops.resize(image, height, width, resize)
            batch[row] = image
        return batch

    source = data_source.from_reader(
        name,
        part,
        reader,
        [places[file.identity] for file in files],
        [f"{identity:04d}" for identity in identities],
        (height, width, channels),
        resident_bytes,
    )
    numbers = np.array([(file.identity, file.camera) for file in files], np.int64)
    names = [str(file.path) for file in files]
    return PersonImages(source, numbers[:, 0], numbers[:, 1], names)


def joined(parts: Sequence[PersonImages]) -> PersonImages:
    """The training images of several sets as one.

    The persons and the cameras of each set stay apart from those of the others.

    Raises:
      UserError: their images are of different shapes.
    """
    first = parts[0].source
    if len(parts) == 1:
        return parts[0]
    for part in parts[1:]:
        if part.source.image_shape != first.image_shape:
            raise UserError(
                f"config.data.image_size: images of {part.source.name} are "
                f"{part.source.image_shape}, those of {first.name} {first.image_shape}"
            )
    sources = [part.source for part in parts]
    starts = np.cumsum([0, *(len(one) for one in sources)])
    classes = np.cumsum([0, *(len(one.class_names) for one in sources)])
    cameras = np.cumsum([0, *(part.cameras.max() + 1 for part in parts)])

    def reader(indices):
        indices = np.asarray(indices)
        rows = np.empty((len(indices), *first.image_shape), np.uint8)
        owners = np.searchsorted(starts, indices, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            rows[here] = sources[owner].read_rows(indices[here] - starts[owner])
        return rows

    images = None
    if all(source.images is not None for source in sources):
        images = np.concatenate([source.images for source in sources])
    whole = Source(
        "+".join(source.name for source in sources),
        first.split,
        np.concatenate(
            [s.labels + start for s, start in zip(sources, classes[:-1], strict=True)]
        ).astype(np.int32),
        tuple(f"{s.name}/{name}" for s in sources for name in s.class_names),
        first.image_shape,
        reader,
        images,
    )
    return PersonImages(
        whole,
        whole.labels.astype(np.int64) + 1,
        np.concatenate(
            [p.cameras + start for p, start in zip(parts, cameras[:-1], strict=True)]
        ),
        [name for part in parts for name in part.names],
    )


def without_singles(images: PersonImages) -> PersonImages:
    """Leaves out persons of one image, of whom there is no pair."""
    source = images.source
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    kept = np.flatnonzero(counts > 1)
    if len(kept) == len(counts):
        return images
    part = images.subset(np.flatnonzero(counts[source.labels] > 1))
    relabelled = dataclasses.replace(
        part.source,
        labels=np.searchsorted(kept, part.source.labels).astype(np.int32),
        class_names=tuple(source.class_names[place] for place in kept),
    )
    return dataclasses.replace(part, source=relabelled)
