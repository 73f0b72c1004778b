"""The UNet of DDAE (Xiang et al. 2023): DDPM's and DDPM++'s denoiser.

Differences from DDPM's original network (Ho et al. 2020): the time goes straight into
the sinusoid (the caller scales it), nothing is initialised to zero, the normalisation
before the last convolution has 8 groups.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.models.layers import (
    GroupNorm,
    conv,
    downsample_mean,
    linear,
    sinusoidal_embedding,
    upsample_nearest,
)


class TimeEmbedding(nn.Module):
    """Sinusoid of the time, plus a linear map of augmentation labels, then an MLP."""

    features: int
    augment_channels: int
    dtype: Any

    @nn.compact
    def __call__(self, time, augment_labels):
        waves = self.features // 4
        embedding = sinusoidal_embedding(time, waves, last_frequency_included=True)
        if self.augment_channels:
            if augment_labels is None:
                augment_labels = jnp.zeros((len(time), self.augment_channels))
            embedding += linear(
                self.augment_channels, waves, use_bias=False, name="augment"
            )(augment_labels)
        hidden = linear(waves, self.features, dtype=self.dtype, name="linear1")(
            embedding
        )
        return linear(self.features, self.features, dtype=self.dtype, name="linear2")(
            nn.silu(hidden)
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the embedding is added before the second normalisation.

    `resample` is None, "up" or "down": BigGAN's resampling inside the block.
    """

    channels: int
    dropout: float
    dtype: Any
    resample: str | None = None

    @nn.compact
    def __call__(self, x, embedding, train):
        in_channels = x.shape[-1]
        hidden = nn.silu(GroupNorm(name="norm1")(x))
        if self.resample is not None:
            move = {"up": upsample_nearest, "down": downsample_mean}[self.resample]
            hidden, x = move(hidden), move(x)
        hidden = conv(in_channels, self.channels, 3, dtype=self.dtype, name="conv1")(
            hidden
        )
        hidden += linear(
            embedding.shape[-1], self.channels, dtype=self.dtype, name="embedding"
        )(nn.silu(embedding))[:, None, None, :]
        hidden = nn.silu(GroupNorm(name="norm2")(hidden))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = conv(self.channels, self.channels, 3, dtype=self.dtype, name="conv2")(
            hidden
        )
        if in_channels != self.channels:
            x = conv(in_channels, self.channels, 1, dtype=self.dtype, name="shortcut")(
                x
            )
        return hidden + x


class AttentionBlock(nn.Module):
    """Self-attention over all positions; heads of `head_channels`, else one head."""

    head_channels: int | None
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        head_channels = self.head_channels or channels
        heads = channels // head_channels
        hidden = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        hidden = linear(channels, 3 * channels, dtype=self.dtype, name="projection")(
            hidden
        )
        # Published weights hold query, key and value of a head side by side.
        hidden = hidden.reshape(batch, height * width, heads, 3 * head_channels)
        query, key, value = jnp.split(hidden, 3, axis=-1)
        hidden = jax.nn.dot_product_attention(
            query, key, value, implementation=self.attention_implementation
        )
        hidden = hidden.reshape(batch, height * width, channels)
        hidden = linear(channels, channels, dtype=self.dtype, name="output")(hidden)
        return x + hidden.reshape(x.shape)


class ResidualAttentionBlock(nn.Module):
    """A residual block, with attention where the level has it. Its output is a tap."""

    channels: int
    attention: bool
    dropout: float
    head_channels: int | None
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, embedding, train):
        x = ResidualBlock(self.channels, self.dropout, self.dtype, name="residual")(
            x, embedding, train
        )
        if self.attention:
            x = AttentionBlock(
                self.head_channels,
                self.attention_implementation,
                self.dtype,
                name="attention",
            )(x)
        return x


class UNet(nn.Module):
    """DDAE's UNet. Taps out_1, out_2, ...: the blocks of the up path, in order.

    Attributes:
      image_channels: channels of the image.
      channels: width of the first level.
      channel_multipliers: width of each level over `channels`, finest level first.
      attention: which levels have attention, finest first.
      blocks: residual blocks per level on the way down; one more on the way up.
      dropout: rate inside residual blocks, in training.
      residual_resampling: resample inside residual blocks (DDPM++), else by a strided
        convolution and nearest-neighbour upsampling (DDPM).
      head_channels: width of an attention head; None for one head.
      augment_channels: number of augmentation labels; 0 for none.
      attention_implementation: of jax.nn.dot_product_attention: None, "xla", "cudnn".
      dtype: of the computation; parameters are float32.
      remat: recompute blocks in the backward pass to save memory.
    """

    image_channels: int = 3
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    attention: tuple[bool, ...] = (False, True, False, False)
    blocks: int = 2
    dropout: float = 0.1
    residual_resampling: bool = False
    head_channels: int | None = None
    augment_channels: int = 0
    attention_implementation: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        count = (self.blocks + 1) * len(self.channel_multipliers)
        return {f"out_{i}": f"out_{i}" for i in range(1, count + 1)}

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        time: Float[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Returns the network's output for `images` at the network's `time`.

        Raises:
          ValueError: labels were given, or augmentation labels that it has no map for.
        """
        if labels is not None:
            raise ValueError("network unet is unconditional: it takes no class labels")
        if augment_labels is not None and not self.augment_channels:
            raise ValueError("this unet has augment_channels=0: it takes no labels")
        widths = [self.channels * factor for factor in self.channel_multipliers]
        levels = len(widths)
        block_type, residual_type = ResidualAttentionBlock, ResidualBlock
        if self.remat:
            block_type = nn.remat(block_type, static_argnums=(3,))
            residual_type = nn.remat(residual_type, static_argnums=(3,))

        def block(level, name):
            return block_type(
                widths[level],
                self.attention[level],
                self.dropout,
                self.head_channels,
                self.attention_implementation,
                self.dtype,
                name=name,
            )

        def resample(x, embedding, direction, name):
            width = x.shape[-1]
            if self.residual_resampling:
                return residual_type(
                    width, self.dropout, self.dtype, direction, name=name
                )(x, embedding, train)
            if direction == "down":
                return conv(width, width, 3, stride=2, dtype=self.dtype, name=name)(x)
            return conv(width, width, 3, dtype=self.dtype, name=name)(
                upsample_nearest(x)
            )

        embedding = TimeEmbedding(
            4 * self.channels, self.augment_channels, self.dtype, name="time"
        )(time, augment_labels)
        x = conv(self.image_channels, self.channels, 3, dtype=self.dtype, name="image")(
            images.astype(self.dtype)
        )
        skips = [x]
        for level in range(levels):
            for i in range(self.blocks):
                x = block(level, f"down_{level}_{i}")(x, embedding, train)
                skips.append(x)
            if level < levels - 1:
                x = resample(x, embedding, "down", f"down_{level}_resample")
                skips.append(x)

        x = residual_type(widths[-1], self.dropout, self.dtype, name="middle_1")(
            x, embedding, train
        )
        x = AttentionBlock(
            self.head_channels,
            self.attention_implementation,
            self.dtype,
            name="middle_attention",
        )(x)
        x = residual_type(widths[-1], self.dropout, self.dtype, name="middle_2")(
            x, embedding, train
        )

        number = 0
        for level in reversed(range(levels)):
            for _ in range(self.blocks + 1):
                number += 1
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(level, f"out_{number}")(x, embedding, train)
            if level > 0:
                x = resample(x, embedding, "up", f"up_{level}_resample")

        x = nn.silu(GroupNorm(groups=8, name="norm")(x))
        x = conv(self.channels, self.image_channels, 3, dtype=self.dtype, name="final")(
            x
        )
        return x.astype(jnp.float32)
