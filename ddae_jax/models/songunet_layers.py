"""The blocks of SongUNet: DDPM++ and NCSN++ (Song et al. 2021) as EDM has them."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from ddae_jax.models.attention import dot_product_attention
from ddae_jax.models.layers import GroupNorm, sinusoidal_embedding
from ddae_jax.models.resampling import downsample, upsample


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
    """Glorot & Bengio's uniform initialiser, its values multiplied by `gain`."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


ZERO_GAIN = 1e-5
"""Gain of the last layer of each branch: nearly nothing, yet with a gradient."""


def conv(
    channels: int, dtype: Any, name: str, gain: float = 1.0, padding: int = 1
) -> nn.Conv:
    """A 3x3 convolution with Xavier kernel and zero bias."""
    return nn.Conv(
        channels,
        (3, 3),
        padding=padding,
        kernel_init=xavier(gain),
        dtype=dtype,
        name=name,
    )


def linear(
    features: int, dtype: Any, name: str, gain: float = 1.0, use_bias: bool = True
) -> nn.Dense:
    """A linear map with Xavier kernel and zero bias."""
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=xavier(gain), dtype=dtype, name=name
    )


def group_norm(channels: int, name: str) -> GroupNorm:
    """Group normalisation with at least 4 channels a group, at most 32 groups."""
    return GroupNorm(groups=min(32, channels // 4), epsilon=1e-6, name=name)


class FourierEmbedding(nn.Module):
    """Sines and cosines of random frequencies, drawn once and never trained."""

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, time):
        frequencies = self.param(
            "frequencies", nn.initializers.normal(self.scale), (self.features // 2,)
        )
        frequencies = 2 * math.pi * jax.lax.stop_gradient(frequencies)
        angles = time.astype(jnp.float32)[:, None] * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Embedding(nn.Module):
    """Time, class and augmentation labels -> the vector that every block gets."""

    noise_features: int
    features: int
    fourier: bool
    num_classes: int
    augment_channels: int
    dtype: Any

    @nn.compact
    def __call__(self, time, labels, augment_labels):
        waves = self.noise_features
        if self.fourier:
            embedding = FourierEmbedding(waves, name="fourier")(time)
        else:
            embedding = sinusoidal_embedding(time, waves, last_frequency_included=True)
        if self.num_classes:
            # The null label, `num_classes`, is the zero vector.
            if labels is None:
                labels = jnp.full(len(time), self.num_classes)
            one_hot = jax.nn.one_hot(labels, self.num_classes)
            embedding += linear(waves, jnp.float32, "labels")(
                one_hot * math.sqrt(self.num_classes)
            )
        if self.augment_channels:
            if augment_labels is None:
                augment_labels = jnp.zeros((len(time), self.augment_channels))
            embedding += linear(waves, jnp.float32, "augment", use_bias=False)(
                augment_labels
            )
        embedding = nn.silu(linear(self.features, self.dtype, "linear1")(embedding))
        return nn.silu(linear(self.features, self.dtype, "linear2")(embedding))


class Attention(nn.Module):
    """The branch of self-attention over all positions, with one head."""

    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        _, height, width, channels = x.shape
        hidden = group_norm(channels, "norm")(x)
        hidden = linear(3 * channels, self.dtype, "projection", math.sqrt(0.2))(hidden)
        # Published weights hold query, key and value of a channel side by side.
        hidden = rearrange(hidden, "b h w (c three) -> b (h w) 1 c three", three=3)
        attended = dot_product_attention(
            hidden[..., 0],
            hidden[..., 1],
            hidden[..., 2],
            self.attention_implementation,
        )
        attended = rearrange(attended, "b (h w) 1 c -> b h w c", h=height, w=width)
        return linear(channels, self.dtype, "output", ZERO_GAIN)(attended)


class Block(nn.Module):
    """Residual block, with attention where asked; sums are scaled by sqrt(1/2).

    `resample` is None, "up" or "down": resampling by `resample_filter` inside the
    block. Its output is a tap.
    """

    channels: int
    attention: bool
    dropout: float
    resample: str | None
    resample_filter: tuple[float, ...]
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, embedding, train):
        in_channels = x.shape[-1]
        hidden = nn.silu(group_norm(in_channels, "norm1")(x))
        if self.resample is not None:
            move = {"up": upsample, "down": downsample}[self.resample]
            hidden = move(hidden, self.resample_filter)
            x = move(x, self.resample_filter)
        hidden = conv(self.channels, self.dtype, "conv1")(hidden)
        hidden += linear(self.channels, self.dtype, "embedding")(embedding)[
            :, None, None, :
        ]
        hidden = nn.silu(group_norm(self.channels, "norm2")(hidden))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = conv(self.channels, self.dtype, "conv2", ZERO_GAIN)(hidden)
        if in_channels != self.channels or self.resample is not None:
            x = linear(self.channels, self.dtype, "shortcut")(x)
        x = (x + hidden) * math.sqrt(0.5)
        if self.attention:
            branch = Attention(
                self.attention_implementation, self.dtype, name="attention"
            )(x)
            x = (x + branch) * math.sqrt(0.5)
        return x


class ImageResidual(nn.Module):
    """NCSN++'s progressive input: a 3x3 convolution and halving of the auxiliary path.

    The convolution comes first and pads for both, so the filter needs no border.
    """

    channels: int
    resample_filter: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x):
        border = len(self.resample_filter) // 2 - 1
        x = conv(self.channels, self.dtype, "conv", padding=1 + border)(x)
        return downsample(x, self.resample_filter, border_included=True)
