"""Latents of a data set in a folder, as the task encode writes them.

Stored are the moments of the autoencoder's posterior, of each image and of its mirror
image, so that training draws new latents in every epoch: as the code of SiT (Ma et al.
2024, arXiv 2401.08740) and REPA (Yu et al. 2024, arXiv 2410.06940) does. Files:

    latents.json            what made them, and how they are normalised
    SPLIT_labels.npy        int32
    SPLIT_00000.npy, ...    (images, copies, rows, columns, twice the channels)
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from ddae_jax.data.form import MomentForm, Scale
from ddae_jax.data.source import Source, from_reader
from ddae_jax.errors import UserError
from ddae_jax.runtime import files

NAME = "latents"
ABOUT = "latents.json"
TASK = "--task=encode"
_AT_ONCE = 256  # images in float64, for the statistics


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a folder of latents holds.

    Attributes:
      identity: of all that the files follow from.
      autoencoder: identity of the network that made them.
      name: of the data set.
      class_names: its classes.
      image_shape: (height, width, channels) of its images.
      shape: (rows, columns, channels) of a latent.
      mirrored: whether the mirrored images are there.
      dtype: of the moments.
      file_images: images of one file.
      counts: split -> images.
      scale, shift: see `form.normalised`; the scale is None while files are missing.
    """

    identity: str
    autoencoder: str
    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    mirrored: bool
    dtype: str
    file_images: int
    counts: dict[str, int]
    scale: Scale | None = None
    shift: tuple[float, ...] = ()

    @property
    def form(self) -> MomentForm:
        """Of the rows."""
        return MomentForm(
            self.mirrored, self.dtype, self.scale or 1.0, self.shift, self.autoencoder
        )

    def starts(self, split: str) -> range:
        """The first image of each file."""
        return range(0, self.counts[split], self.file_images)

    def path(self, folder: pathlib.Path, split: str, start: int) -> pathlib.Path:
        """The file that begins with image `start`."""
        return folder / f"{split}_{start // self.file_images:05d}.npy"

    def rows(
        self, folder: pathlib.Path, split: str, start: int
    ) -> Num[np.ndarray, "images *row"]:
        """The rows of that file, mapped.

        Raises:
          UserError: it is missing, damaged, or of another number of images.
        """
        path = self.path(folder, split, start)
        count = min(self.file_images, self.counts[split] - start)
        return _mapped(path, (count, *self.form.row_shape(self.shape)), self.dtype)


def read(folder: str | pathlib.Path) -> Encoded | None:
    """Reads what a folder says of itself; None where it has no latents.json.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(folder) / ABOUT
    try:
        return _checked(Encoded(**_tuples(files.read_object(path))))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not what {TASK} writes: {reason}") from error


def write(folder: pathlib.Path, encoded: Encoded) -> None:
    """Writes latents.json, whole or not at all."""
    files.write_json(folder / ABOUT, dataclasses.asdict(encoded))


def write_array(path: pathlib.Path, array: Num[np.ndarray, "*shape"]) -> None:
    """Writes a .npy file, whole or not at all."""
    with files.replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


def statistics(
    encoded: Encoded, folder: pathlib.Path
) -> tuple[Float[np.ndarray, "channels"], Float[np.ndarray, "channels"]]:
    """Mean and standard deviation of each channel of a draw from the training set."""
    channels = encoded.shape[-1]
    total, count = np.zeros((2, channels)), 0
    for rows in _all_rows(encoded, folder):
        mean, std = np.split(rows.astype(np.float64).reshape(-1, 2 * channels), 2, -1)
        total += mean.sum(0), (mean**2 + std**2).sum(0)
        count += len(mean)
    mean, square = total / count
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
) -> Source:
    """One split of the latents in `folder`; `images` are the normalised latents.

    Args:
      image_size, channels: None, or those of the images that were encoded.

    Raises:
      UserError: nothing was encoded there, or not to the end; the files are damaged, or
        of other images.
    """
    if folder is None:
        raise UserError(f"{NAME}: config.data.folder names what {TASK} wrote")
    root = pathlib.Path(folder)
    encoded = read(root)
    if encoded is None:
        raise UserError(f"{NAME}: no {ABOUT} in {folder}; {TASK} writes it")
    if encoded.scale is None:
        raise UserError(f"{NAME}: {folder} is unfinished; {TASK} again goes on")
    *sides, image_channels = encoded.image_shape
    if image_size is not None and sides != [image_size] * 2:
        raise UserError(
            f"config.data.image_size: {image_size}, but the latents in {folder} are of "
            f"images of {sides[0]}x{sides[1]}"
        )
    if channels not in (None, image_channels):
        raise UserError(
            f"config.data.channels: {channels}, but the latents in {folder} are of "
            f"images of {image_channels}"
        )
    if split not in encoded.counts:
        raise UserError(f"{NAME}: {folder} has no split {split}")
    count = encoded.counts[split]
    labels = _mapped(root / f"{split}_labels.npy", (count,), "int32")
    if count and not 0 <= labels.min() <= labels.max() < len(encoded.class_names):
        raise UserError(
            f"{root / f'{split}_labels.npy'}: labels from {labels.min()} to "
            f"{labels.max()} of {len(encoded.class_names)} classes"
        )
    parts = [encoded.rows(root, split, start) for start in encoded.starts(split)]

    def reader(indices: Int[np.ndarray, "batch"]) -> Num[np.ndarray, "batch *row"]:
        files_of, places = np.divmod(indices, encoded.file_images)
        pairs = zip(files_of, places, strict=True)
        return np.stack([parts[number][place] for number, place in pairs])

    return from_reader(
        f"{encoded.name} ({NAME})",
        split,
        reader,
        labels,
        encoded.class_names,
        encoded.shape,
        resident_bytes,
        encoded.form,
    )


def _all_rows(encoded: Encoded, folder: pathlib.Path) -> Iterator[np.ndarray]:
    for start in encoded.starts("train"):
        rows = encoded.rows(folder, "train", start)
        for first in range(0, len(rows), _AT_ONCE):
            yield rows[first : first + _AT_ONCE]


def _mapped(path: pathlib.Path, shape: Sequence[int], dtype: str) -> np.ndarray:
    try:
        array = files.map_array(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {TASK} writes it") from error
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise UserError(
            f"{path}: {array.dtype}{array.shape}, but {ABOUT} says {dtype}"
            f"{tuple(shape)}"
        )
    return array


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _checked(encoded: Encoded) -> Encoded:
    """Raises a ValueError where fields are of another kind than they say."""
    shapes = (*encoded.image_shape, *encoded.shape)
    counts = encoded.counts.values()
    numbers = (*shapes, *counts, encoded.file_images)
    scales = np.ravel(1.0 if encoded.scale is None else encoded.scale)
    widths = {len(scales), len(encoded.shift) or 1} - {1}
    texts = (encoded.identity, encoded.autoencoder, encoded.name, *encoded.class_names)
    good = {
        "shapes": len(encoded.image_shape) == len(encoded.shape) == 3,
        "numbers": all(type(one) is int and one > 0 for one in numbers),
        "texts": all(isinstance(one, str) for one in texts),
        "dtype": encoded.dtype in ("float16", "float32"),
        "mirrored": isinstance(encoded.mirrored, bool),
        "scale and shift": widths <= {encoded.shape[-1]}
        and np.isfinite([*scales, *encoded.shift]).all()
        and (scales > 0).all(),
    }
    for what, holds in good.items():
        if not holds:
            raise ValueError(what)
    return encoded
