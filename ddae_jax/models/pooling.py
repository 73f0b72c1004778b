"""From a tap to vectors: of its positions, of a grid of them, or their mean."""

import math

import jax
from einops import rearrange, reduce
from jaxtyping import Array, Float

from ddae_jax.errors import UserError


def positions(
    tap: Float[Array, "batch ... channels"], extra_tokens: int = 0
) -> Float[Array, "batch positions channels"]:
    """The vectors of a tap's positions, row by row, in float32.

    Args:
      tap: (batch, height, width, channels) or (batch, tokens, channels).
      extra_tokens: leading tokens that stand for no part of the image.
    """
    if tap.ndim == 3:
        tap = tap[:, extra_tokens:]
    return rearrange(tap.astype("float32"), "b ... c -> b (...) c")


def pool(
    tap: Float[Array, "batch ... channels"], extra_tokens: int = 0
) -> Float[Array, "batch channels"]:
    """The mean of `positions`."""
    return reduce(positions(tap, extra_tokens), "b n c -> b c", "mean")


def grid(
    positions: Float[Array, "batch positions channels"], image_size: tuple[int, int]
) -> Float[Array, "batch rows columns channels"]:
    """Gives positions, row by row, the layout that is nearest the image's.

    Args:
      image_size: (height, width).

    Raises:
      UserError: they fill no grid of about these proportions.
    """
    count = positions.shape[1]
    height, width = image_size
    shapes = [(rows, count // rows) for rows in range(1, count + 1) if not count % rows]

    def stretch(shape):
        return abs(math.log(shape[0] * width / (shape[1] * height)))

    best = min(shapes, key=stretch)
    # Odd sides are rounded where they are halved: 28x20 pixels become 4x3 positions.
    if stretch(best) > math.log(1.5):
        raise UserError(f"{count} positions are no grid over {height}x{width} pixels")
    return rearrange(positions, "b (rows columns) c -> b rows columns c", rows=best[0])


def matched(
    vectors: Float[Array, "batch rows columns channels"],
    size: tuple[int, int],
) -> Float[Array, "batch new_rows new_columns channels"]:
    """Brings a grid to another number of rows and columns by bilinear interpolation.

    Where positions become fewer, each is a weighted mean of those that it covers.
    """
    batch, rows, columns, channels = vectors.shape
    if (rows, columns) == tuple(size):
        return vectors
    return jax.image.resize(vectors, (batch, *size, channels), "linear")
