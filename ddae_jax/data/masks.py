"""Images with a mask each: the class of every pixel."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddae_jax.data import image_files
from ddae_jax.data import images as image_ops
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.runtime import files

IGNORE = 255
"""The class of pixels that do not count."""

_MODES = ("1", "L", "P")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedImages:
    """A segmentation set.

    Attributes:
      images: at the network's size; its labels mean nothing.
      read_masks: indices -> uint8 (batch, height, width), brought to the network's
        size as their images are.
      classes: those that occur in the masks, ascending, without IGNORE.
    """

    images: Source
    read_masks: Callable[[np.ndarray], np.ndarray]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)


def load(
    images: str,
    masks: str,
    fields: tuple[str, str],
    image_shape: tuple[int, int, int],
    enlarge: bool,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> MaskedImages:
    """Pairs images with masks: PNG files of the same path below their folder.

    Every mask is read once, so that a wrong one is found before anything is trained.

    Args:
      images: folder.
      masks: folder.
      fields: what errors call the two.
      image_shape: of the network.
      enlarge: as `image_files.read` takes it.
      resident_bytes: images that take at most this much are kept in memory, and their
        masks with them.
      resize: how images are, see `images.resize`.

    Raises:
      UserError: an empty folder, an image without a mask, a mask of another size than
        its image, or one that holds no class indices.
    """
    root, paths = image_files.find(images, fields[0])
    folder = pathlib.Path(masks)
    if not folder.is_dir():
        raise UserError(f"{fields[1]}: there is no folder {masks}")
    found = []
    seen: dict[pathlib.Path, pathlib.Path] = {}
    classes: set[int] = set()
    for path in paths:
        mask_path = folder / path.relative_to(root).with_suffix(".png")
        if mask_path in seen:
            raise UserError(f"{path}: has the same mask as {seen[mask_path]}")
        if not mask_path.is_file():
            raise UserError(f"{fields[1]}: no mask {mask_path} for {path}")
        seen[mask_path] = path
        mask = read_mask(mask_path)
        size = image_ops.header_size(path)
        if mask.shape != size:
            raise UserError(
                f"{mask_path}: {mask.shape[0]}x{mask.shape[1]} pixels, its image "
                f"{path} has {size[0]}x{size[1]}"
            )
        classes.update(np.unique(mask).tolist())
        found.append(mask_path)

    def reader(indices):
        read = [place(read_mask(found[i]), image_shape[:2], enlarge) for i in indices]
        return np.stack(read)

    source = image_files.source(
        fields[0], paths, image_shape, enlarge, resident_bytes, resize=resize
    )
    if source.images is not None:
        reader = reader(np.arange(len(found))).__getitem__
    return MaskedImages(source, reader, tuple(sorted(classes - {IGNORE})))


def read_mask(path: pathlib.Path) -> UInt8[np.ndarray, "height width"]:
    """Reads class indices from a grey or palette image; IGNORE pixels do not count.

    Raises:
      UserError: not readable, or of a colour mode that holds no indices.
    """
    try:
        with files.open_regular(path) as stream, Image.open(stream) as image:
            mode, mask = image.mode, np.array(image)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable mask") from error
    if mode not in _MODES:
        raise UserError(
            f"{path}: colour mode {mode}; a mask holds class indices (8-bit grey or "
            "palette)"
        )
    return mask.astype(np.uint8)


def place(
    mask: UInt8[np.ndarray, "height width"], shape: tuple[int, int], enlarge: bool
) -> UInt8[np.ndarray, "size size"]:
    """Does to a mask what `image_files.read` does to its image.

    Nearest neighbour where that resizes, IGNORE where it adds a margin.
    """
    if mask.shape == shape:
        return mask
    size = shape[0]
    if not enlarge and max(mask.shape) <= size:
        top, left = ((size - side) // 2 for side in mask.shape)
        placed = np.full(shape, IGNORE, np.uint8)
        placed[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return placed
    ratio = size / min(mask.shape)
    height, width = (max(size, round(side * ratio)) for side in mask.shape)
    small = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    top, left = (height - size) // 2, (width - size) // 2
    return np.asarray(small)[top : top + size, left : left + size]
