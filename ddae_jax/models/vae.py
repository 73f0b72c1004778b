"""The autoencoder of Stable Diffusion (Rombach et al. 2022): images <-> latents.

It is the network that diffusers calls AutoencoderKL; the defaults are the published
sd-vae-ft-ema and sd-vae-ft-mse (83,653,863 parameters, 8 pixels to a latent).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddae_jax.models.attention import dot_product_attention
from ddae_jax.models.base import check_sides
from ddae_jax.models.layers import (
    GroupNorm,
    conv,
    linear,
    torch_bias_init,
    torch_kernel_init,
    upsample_nearest,
)

EPSILON = 1e-6


class ResidualBlock(nn.Module):
    """Normalisation, SiLU and a 3x3 convolution, twice, around a shortcut."""

    channels: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        in_channels = x.shape[-1]
        hidden = nn.silu(GroupNorm(self.groups, EPSILON, name="norm1")(x))
        hidden = conv(in_channels, self.channels, 3, dtype=self.dtype, name="conv1")(
            hidden
        )
        hidden = nn.silu(GroupNorm(self.groups, EPSILON, name="norm2")(hidden))
        hidden = conv(self.channels, self.channels, 3, dtype=self.dtype, name="conv2")(
            hidden
        )
        if in_channels != self.channels:
            x = conv(in_channels, self.channels, 1, dtype=self.dtype, name="shortcut")(
                x
            )
        return x + hidden


class AttentionBlock(nn.Module):
    """Self-attention over all positions, one head."""

    groups: int
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        _, height, width, channels = x.shape
        hidden = GroupNorm(self.groups, EPSILON, name="norm")(x)
        hidden = rearrange(hidden, "b h w c -> b (h w) 1 c")
        query, key, value = (
            linear(channels, channels, dtype=self.dtype, name=name)(hidden)
            for name in ("query", "key", "value")
        )
        hidden = dot_product_attention(query, key, value, self.attention_implementation)
        hidden = linear(channels, channels, dtype=self.dtype, name="output")(hidden)
        return x + rearrange(hidden, "b (h w) 1 c -> b h w c", h=height, w=width)


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    groups: int
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = ResidualBlock(width, self.groups, self.dtype, name="residual_1")(x)
        x = AttentionBlock(
            self.groups, self.attention_implementation, self.dtype, name="attention"
        )(x)
        return ResidualBlock(width, self.groups, self.dtype, name="residual_2")(x)


class Encoder(nn.Module):
    """Images to the moments of the latents, before the last 1x1 convolution."""

    latent_channels: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, images):
        x = conv(images.shape[-1], self.widths[0], 3, dtype=self.dtype, name="conv_in")(
            images
        )
        for level, width in enumerate(self.widths):
            for i in range(self.blocks):
                x = ResidualBlock(
                    width, self.groups, self.dtype, name=f"down_{level}_{i}"
                )(x)
            if level < len(self.widths) - 1:
                # The published networks pad on the far sides only.
                x = nn.Conv(
                    width,
                    (3, 3),
                    strides=2,
                    padding=((0, 1), (0, 1)),
                    kernel_init=torch_kernel_init,
                    bias_init=torch_bias_init(9 * width),
                    dtype=self.dtype,
                    name=f"down_{level}_resample",
                )(x)
        x = Middle(
            self.groups, self.attention_implementation, self.dtype, name="middle"
        )(x)
        x = nn.silu(GroupNorm(self.groups, EPSILON, name="norm")(x))
        return conv(
            self.widths[-1],
            2 * self.latent_channels,
            3,
            dtype=self.dtype,
            name="conv_out",
        )(x)


class Decoder(nn.Module):
    """Latents to images; one residual block per level more than the encoder."""

    image_channels: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, latents):
        widths = self.widths[::-1]
        x = conv(latents.shape[-1], widths[0], 3, dtype=self.dtype, name="conv_in")(
            latents
        )
        x = Middle(
            self.groups, self.attention_implementation, self.dtype, name="middle"
        )(x)
        for level, width in enumerate(widths):
            for i in range(self.blocks + 1):
                x = ResidualBlock(
                    width, self.groups, self.dtype, name=f"up_{level}_{i}"
                )(x)
            if level < len(widths) - 1:
                x = conv(
                    width, width, 3, dtype=self.dtype, name=f"up_{level}_resample"
                )(upsample_nearest(x))
        x = nn.silu(GroupNorm(self.groups, EPSILON, name="norm")(x))
        return conv(
            widths[-1], self.image_channels, 3, dtype=self.dtype, name="conv_out"
        )(x)


class AutoencoderKL(nn.Module):
    """Stable Diffusion's variational autoencoder.

    Attributes:
      image_channels: channels of the image.
      latent_channels: channels of a latent.
      widths: channels of each level, finest first; each level but the last halves the
        image.
      blocks: residual blocks per level of the encoder; one more in the decoder.
      groups: of the group normalisations.
      scaling_factor: latents times this have about unit variance: what diffusion
        models are trained on.
      attention_implementation: of jax.nn.dot_product_attention: None, "xla", "cudnn".
      dtype: of the computation; parameters are float32.
    """

    image_channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    scaling_factor: float = 0.18215
    attention_implementation: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        common = (
            self.widths,
            self.blocks,
            self.groups,
            self.attention_implementation,
            self.dtype,
        )
        moments = 2 * self.latent_channels
        self.encoder = Encoder(self.latent_channels, *common)
        self.decoder = Decoder(self.image_channels, *common)
        self.quantise = conv(moments, moments, 1, dtype=self.dtype)
        self.unquantise = conv(
            self.latent_channels, self.latent_channels, 1, dtype=self.dtype
        )

    def encode(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[
        Float[Array, "batch rows columns latent"],
        Float[Array, "batch rows columns latent"],
    ]:
        """Returns the mean and log variance of the latents of `images` in [-1, 1].

        They are not scaled. The log variance is clipped to [-30, 20].

        Raises:
          UserError: the network cannot halve the images so often.
        """
        check_sides(images, 2 ** (len(self.widths) - 1), "autoencoder")
        moments = self.quantise(self.encoder(images.astype(self.dtype)))
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(
        self, latents: Float[Array, "batch rows columns latent"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the images, about in [-1, 1], of latents that are not scaled."""
        x = self.decoder(self.unquantise(latents.astype(self.dtype)))
        return x.astype(jnp.float32)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the reconstruction of `images` in [-1, 1], from the mean latents."""
        mean, _ = self.encode(images)
        return self.decode(mean)
