"""Euclidean distances of all pairs, by a matrix product."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_ROUNDING = 8.0


def euclidean_distances(
    first: Float[Array, "first features"], second: Float[Array, "second features"]
) -> Float[Array, "first second"]:
    """Distances |f - g|, differentiable everywhere.

    From |f|^2 + |g|^2 - 2 f.g, whose rounding is relative to |f|^2 + |g|^2: distances
    below about a thousandth of that length are 0 in float32, with a gradient of 0, as
    those of equal vectors are.
    """
    product = jnp.dot(first, second.T, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.square(first).sum(axis=1)[:, None] + jnp.square(second).sum(axis=1)
    squares = scale - 2 * product
    apart = squares > _ROUNDING * jnp.finfo(squares.dtype).eps * scale
    # The root's derivative at 0 is infinite, and would be NaN in a gradient of 0.
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
