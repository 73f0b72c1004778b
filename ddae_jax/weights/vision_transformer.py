"""What the tensors of a vision transformer tell of its size."""

import math
import re
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError


def require(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns tensor `name`.

    Raises:
      UserError: it is missing.
    """
    if name not in state:
        raise UserError(f"the tensors are of another network: {name} is missing")
    return state[name]


def blocks_in(state: Mapping[str, np.ndarray], prefix: str) -> int:
    """Counts the blocks `prefix`.0, `prefix`.1, ...

    Raises:
      UserError: there are none, or their numbers have a gap.
    """
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    found = {int(match[1]) for name in state if (match := pattern.match(name))}
    if not found or found != set(range(len(found))):
        raise UserError(f"{prefix} are numbered {sorted(found)}, not 0, 1, 2, ...")
    return len(found)


def heads_of(
    sizes: Mapping[str, Mapping[str, int]],
    hidden_size: int,
    depth: int,
    heads: int | None,
) -> int:
    """Returns `heads`, or where it is None the number of the published size.

    Raises:
      UserError: no size of `sizes` has this width and depth, so `heads` must be given;
        or `heads` does not divide the width.
    """
    if heads is None:
        for size in sizes.values():
            if (size["hidden_size"], size["depth"]) == (hidden_size, depth):
                return size["heads"]
        raise UserError(
            f"no published size is {hidden_size} wide and {depth} deep, and no tensor "
            "shows the number of attention heads: give heads"
        )
    if heads < 1 or hidden_size % heads:
        raise UserError(f"heads is {heads}: it does not divide width {hidden_size}")
    return heads


def square_side(tokens: int) -> int:
    """Returns the side of a square grid of `tokens`.

    Raises:
      UserError: `tokens` is no square number.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are not those of a square image")
    return side
