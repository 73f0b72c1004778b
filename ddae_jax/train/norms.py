"""Norms of trees of parameters: each is a pass over all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def global_norm(tree: Any) -> Float[Array, ""]:
    """Euclidean norm of all leaves together."""
    return jnp.sqrt(sum(_sum_of_squares(leaf) for leaf in jax.tree.leaves(tree)))


def _sum_of_squares(leaf):
    # By rows first: XLA:CPU takes one thread for a sum whose result is one number. The
    # barrier keeps it from making one sum of the two.
    rows = jnp.sum(jnp.square(leaf), axis=-1) if leaf.ndim > 1 else jnp.square(leaf)
    return jnp.sum(jax.lax.optimization_barrier(rows))


def clip(most: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` to rounding, and its state, by `global_norm`."""

    def update(gradient, state, params=None):
        del params
        norm = global_norm(gradient)
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda leaf: leaf * factor, gradient), state

    return optax.GradientTransformation(optax.init_empty_state, update)
