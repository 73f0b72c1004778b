"""Scaled dot-product attention: JAX's kernels, or one that XLA runs fast on CPU."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddae_jax.errors import UserError


def dot_product_attention(
    query: Float[Array, "batch tokens heads features"],
    key: Float[Array, "batch tokens heads features"],
    value: Float[Array, "batch tokens heads features"],
    implementation: str | None = None,
) -> Float[Array, "batch tokens heads features"]:
    """Attends over all tokens (Vaswani et al. 2017, equation 1).

    Args:
      query: queries; they are scaled by 1 / sqrt(features) here.
      key: keys.
      value: values.
      implementation: "xla" or "cudnn" of jax.nn.dot_product_attention; None leaves it
        to JAX, but for float32 takes the code below. It is the same function, but
        heads come before tokens and weights are normalised after the sum over values:
        on CPU that takes 0.6 of the time forward and 0.45 of it backward.
    """
    if implementation is not None or query.dtype != jnp.float32:
        return jax.nn.dot_product_attention(
            query, key, value, implementation=implementation
        )
    query, key, value = (
        rearrange(x, "b t h c -> b h t c") for x in (query, key, value)
    )
    scores = jnp.einsum("bhqc,bhkc->bhqk", query * query.shape[-1] ** -0.5, key)
    # The shift by the largest score cancels, so its gradient is nothing.
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    output = jnp.einsum("bhqk,bhkc->bhqc", weights, value) / total
    return rearrange(output, "b h t c -> b t h c")


def head_count(channels: int, head_channels: int | None) -> int:
    """Number of heads of `head_channels` each; None is one head.

    Raises:
      UserError: `channels` do not divide into such heads.
    """
    head_channels = head_channels or channels
    if channels % head_channels:
        raise UserError(
            f"{channels} channels do not divide into heads of {head_channels} "
            "(head_channels)"
        )
    return channels // head_channels
