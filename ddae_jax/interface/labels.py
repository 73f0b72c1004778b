"""Labels as users have them, numbers or names, to the numbers that heads take."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from ddae_jax.data import arrays
from ddae_jax.errors import UserError

Labelled = tuple[
    UInt8[np.ndarray, "count height width channels"],
    Shaped[np.ndarray, "count"] | Sequence[Any],
]
"""(images, numbers or names of their classes)"""
Numbered = tuple[
    UInt8[np.ndarray, "count height width channels"], Int[np.ndarray, "count"]
]
"""(images, numbers of their classes)"""


def together(
    given: Mapping[str, Labelled],
) -> tuple[dict[str, Numbered], tuple[str, ...]]:
    """Checks labelled images, and numbers their classes alike.

    Args:
      given: name of the argument -> images and labels.

    Returns:
      the same with numbers, and the names of all classes.

    Raises:
      UserError: one of them is not labelled images.
    """
    images, labels = {}, {}
    for name, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{name}: give (images, labels)")
        images[name], labels[name] = map(np.asarray, pair)
        arrays.check_images(images[name], name)
        if labels[name].shape != (len(images[name]),):
            raise UserError(
                f"{name}: labels of shape {labels[name].shape} for "
                f"{len(images[name])} images"
            )
    joined = np.concatenate(list(labels.values()))
    numbers, class_names = numbered("labels", len(joined), joined)
    ends = np.cumsum([len(each) for each in labels.values()])[:-1]
    parts = dict(zip(labels, np.split(numbers, ends), strict=True))
    return {name: (images[name], parts[name]) for name in given}, class_names


def numbered(
    name: str, count: int, labels: Shaped[np.ndarray, "count"] | Sequence[Any]
) -> tuple[Int[np.ndarray, "count"], tuple[str, ...]]:
    """Returns labels from 0 on, and the names of all classes.

    Numbers from 0 on keep their meaning; everything else, names above all, is numbered
    in the order in which it sorts.

    Args:
      name: of the argument, for messages.
      count: of the images.

    Raises:
      UserError: not one label for every image.
    """
    given = np.asarray(labels)
    if given.shape != (count,):
        raise UserError(f"{name}: shape {given.shape} for {count} images")
    if given.dtype.kind not in "iubUS":
        raise UserError(f"{name}: type {given.dtype}; give numbers or names of classes")
    # Far more classes than images are identifiers.
    if given.dtype.kind in "iu" and given.min() >= 0 and given.max() < 10 * count:
        highest = int(given.max())
        return given.astype(np.int32), tuple(map(str, range(highest + 1)))
    found, places = np.unique(given, return_inverse=True)
    return places.astype(np.int32), tuple(map(str, found.tolist()))
