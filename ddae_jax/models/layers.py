"""Layers that several networks share, with PyTorch's default initialisers."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Array, Float

from ddae_jax.errors import UserError

# PyTorch draws kernels and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's default bias initialiser for a layer with `fan_in` inputs."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    stride: int = 1,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A `size` x `size` convolution, padded by size // 2, initialised as in PyTorch."""
    return nn.Conv(
        out_channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        kernel_init=torch_kernel_init,
        bias_init=torch_bias_init(in_channels * size * size),
        dtype=dtype,
        name=name,
    )


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Dense:
    """A linear layer, initialised as in PyTorch."""
    return nn.Dense(
        out_features,
        use_bias=use_bias,
        kernel_init=torch_kernel_init,
        bias_init=torch_bias_init(in_features),
        dtype=dtype,
        name=name,
    )


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018), statistics in float32.

    The statistics are folded into one scale and one shift per image and channel, so
    that the image is read twice and written once; `nn.GroupNorm` makes more passes.
    `affine` False has no learned scale and bias. A UserError says that the channels do
    not divide into the groups.
    """

    groups: int = 32
    epsilon: float = 1e-5
    affine: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1]
        if self.groups < 1 or channels % self.groups:
            raise UserError(
                f"a layer of {channels} channels does not divide into {self.groups} "
                "groups: the network needs other channels"
            )
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        x32 = x.astype(jnp.float32)

        def mean_of_groups(means):
            grouped = rearrange(means, "b (g c) -> b g c", g=self.groups)
            return grouped.mean(-1, keepdims=True)

        mean = mean_of_groups(jnp.mean(x32, axis=(1, 2)))
        square = mean_of_groups(jnp.mean(x32 * x32, axis=(1, 2)))
        variance = jnp.maximum(square - mean**2, 0)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        factor = inverse * rearrange(scale, "(g c) -> g c", g=self.groups)
        factor, shift = (
            rearrange(part, "b g c -> b 1 1 (g c)") for part in (factor, mean * factor)
        )
        return (x32 * factor + (bias - shift)).astype(x.dtype)


def sinusoidal_embedding(
    position: Float[Array, "batch"],
    features: int,
    *,
    last_frequency_included: bool,
    cosine_first: bool = False,
) -> Float[Array, "batch features"]:
    """Sinusoids of base 10000 (Vaswani et al. 2017).

    Args:
      position: times, of any scale.
      features: even number of features.
      last_frequency_included: True spaces the frequencies by 1 / (features/2 - 1), so
        that the last is 1/10000 (DDPM); False by 1 / (features/2) (ADM, DiT).
      cosine_first: cosines before sines (ADM, DiT), or after (DDPM).
    """
    half = features // 2
    steps = half - 1 if last_frequency_included else half
    frequencies = jnp.exp(-math.log(10_000) / steps * jnp.arange(half))
    angles = position.astype(jnp.float32)[:, None] * frequencies
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cosine_first else waves, axis=-1)


def upsample_nearest(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Doubles height and width by repeating pixels."""
    return repeat(x, "b h w c -> b (h dy) (w dx) c", dy=2, dx=2)


def downsample_mean(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height/2 width/2 channels"]:
    """Halves height and width by averaging 2 x 2 pixels."""
    return reduce(x, "b (h dy) (w dx) c -> b h w c", "mean", dy=2, dx=2)
