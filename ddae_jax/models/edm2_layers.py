"""Layers of EDM2 (Karras et al., arXiv 2312.02696), configurations C and E."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddae_jax.models.attention import dot_product_attention, head_count
from ddae_jax.models.layers import (
    GroupNorm,
    downsample_mean,
    torch_kernel_init,
    upsample_nearest,
)

CLIP = 256.0
"""Bound of configuration E's activations after each block, for half precision."""


def normalize_kernel(kernel: Float[Array, "... out"]) -> Float[Array, "... out"]:
    """Scales each output's weights to root mean square 1 (equation 66).

    A kernel of zeros stays zero.
    """
    squares = jnp.mean(kernel**2, axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    # The gradient of sqrt at 0 is infinite; where() keeps it out.
    positive = squares > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
    return kernel / (1e-4 + root)


def normalized_init(key, shape, dtype=jnp.float32):
    """Draws a kernel of normal weights, normalised."""
    return normalize_kernel(jax.random.normal(key, shape, dtype))


def pixel_norm(x: Float[Array, "... features"]) -> Float[Array, "... features"]:
    """Scales each vector of the last axis to root mean square 1, in float32."""
    x32 = x.astype(jnp.float32)
    square = jnp.mean(x32**2, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(square + 1e-8)).astype(x.dtype)


class Kernel(nn.Module):
    """A linear map (size None) or `size` x `size` convolution, without bias.

    Attributes:
      features: number of outputs.
      size: side of the convolution's kernel; None acts on the last axis.
      normalized: use the kernel as if it were normalised: each output's weights are a
        unit vector (configuration E), so only their direction matters.
      dtype: of the computation.
    """

    features: int
    size: int | None = None
    normalized: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        window = () if self.size is None else (self.size, self.size)
        init = normalized_init if self.normalized else torch_kernel_init
        kernel = self.param("kernel", init, (*window, x.shape[-1], self.features))
        if self.normalized:
            fan_in = math.prod(kernel.shape[:-1])
            kernel = normalize_kernel(kernel) / math.sqrt(fan_in)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.size is None:
            return x @ kernel
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class Fourier(nn.Module):
    """Cosines of random frequencies and phases, drawn once and never trained."""

    features: int

    @nn.compact
    def __call__(self, time):
        shape = (self.features,)
        frequencies = self.param("frequencies", nn.initializers.normal(1), shape)
        phases = self.param("phases", nn.initializers.uniform(1), shape)
        turns = time.astype(jnp.float32)[:, None] * frequencies + phases
        return jnp.cos(2 * math.pi * jax.lax.stop_gradient(turns))


class Embedding(nn.Module):
    """Time -> the vector that every block gets."""

    features: int
    normalized: bool
    dtype: Any

    @nn.compact
    def __call__(self, time):
        hidden = Fourier(self.features // 4, name="fourier")(time)
        for name in ("linear1", "linear2"):
            hidden = nn.silu(
                Kernel(self.features, None, self.normalized, self.dtype, name=name)(
                    hidden
                )
            )
        return hidden


class Uncertainty(nn.Module):
    """Log-variance of the loss as a function of the time (equation 15)."""

    normalized: bool
    features: int = 256

    @nn.compact
    def __call__(self, time):
        waves = Fourier(self.features, name="fourier")(time)
        return Kernel(1, None, self.normalized, name="linear")(waves)[:, 0]


class Attention(nn.Module):
    """Cosine attention: query, key and value of each head have unit variance."""

    head_channels: int | None
    normalized: bool
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        _, height, width, channels = x.shape
        heads = head_count(channels, self.head_channels)
        hidden = Kernel(
            3 * channels, None, self.normalized, self.dtype, name="projection"
        )(x)
        # Published weights hold query, key and value of a head side by side.
        hidden = rearrange(
            hidden,
            "b h w (heads three c) -> b (h w) heads three c",
            heads=heads,
            three=3,
        )
        hidden = pixel_norm(hidden)
        hidden = dot_product_attention(
            hidden[..., 0, :],
            hidden[..., 1, :],
            hidden[..., 2, :],
            self.attention_implementation,
        )
        hidden = rearrange(
            hidden, "b (h w) heads c -> b h w (heads c)", h=height, w=width
        )
        output = Kernel(channels, None, self.normalized, self.dtype, name="output")
        return x + output(hidden)


class Block(nn.Module):
    """Residual block, with attention where asked. Its output is a tap.

    The embedding scales the activations after the second normalisation; it shifts
    nothing. `resample` is None, "up" or "down".
    """

    channels: int
    attention: bool
    dropout: float
    resample: str | None
    head_channels: int | None
    normalized: bool
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, embedding, train):
        def kernel(size, name):
            return Kernel(self.channels, size, self.normalized, self.dtype, name=name)

        hidden = nn.silu(GroupNorm(affine=False, name="norm1")(x))
        if self.resample is not None:
            move = {"up": upsample_nearest, "down": downsample_mean}[self.resample]
            hidden, x = move(hidden), move(x)
        hidden = kernel(3, "conv1")(hidden)
        hidden = GroupNorm(affine=False, name="norm2")(hidden)
        scale = 1 + kernel(None, "embedding")(embedding)
        hidden = nn.silu(hidden * scale[:, None, None, :])
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = kernel(3, "conv2")(hidden)
        if x.shape[-1] != self.channels:
            x = kernel(None, "shortcut")(x)
        x = x + hidden
        if self.attention:
            x = Attention(
                self.head_channels,
                self.normalized,
                self.attention_implementation,
                self.dtype,
                name="attention",
            )(x)
        return jnp.clip(x, -CLIP, CLIP) if self.normalized else x
