"""Labels as users have them, numbers or names, to the numbers that heads take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from ddae_jax.errors import UserError


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
