"""The UNet of DDAE (Xiang et al. 2023): DDPM's and DDPM++'s denoiser.

Differences from DDPM's original network (Ho et al. 2020): the time goes straight into
the sinusoid (the caller scales it), nothing is initialised to zero, the normalisation
before the last convolution has 8 groups.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from ddae_jax.models.attention import dot_product_attention, head_count
from ddae_jax.models.base import (
    Network,
    attention_setting,
    check_levels,
    check_sides,
)
from ddae_jax.models.layers import (
    GroupNorm,
    conv,
    downsample_mean,
    linear,
    sinusoidal_embedding,
    upsample_nearest,
)
from ddae_jax.models.remat import remat_setting, rematerialised
from ddae_jax.models.self_conditioning import SelfCondition, SelfConditioning
from ddae_jax.settings.fields import setting


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
        _, height, width, channels = x.shape
        heads = head_count(channels, self.head_channels)
        hidden = rearrange(GroupNorm(name="norm")(x), "b h w c -> b (h w) c")
        hidden = linear(channels, 3 * channels, dtype=self.dtype, name="projection")(
            hidden
        )
        # Published weights hold query, key and value of a head side by side.
        parts = "b t (heads part c) -> b t heads part c"
        hidden = rearrange(hidden, parts, heads=heads, part=3)
        query, key, value = jnp.unstack(hidden, axis=3)
        hidden = dot_product_attention(query, key, value, self.attention_implementation)
        hidden = rearrange(hidden, "b t heads c -> b t (heads c)")
        hidden = linear(channels, channels, dtype=self.dtype, name="output")(hidden)
        return x + rearrange(hidden, "b (h w) c -> b h w c", h=height, w=width)


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


class UNet(Network):
    """DDAE's UNet. Taps out_1, out_2, ...: the blocks of the up path, in order.

    Widths are multiples of 32, the groups of its normalisations.
    """

    channels: int = setting(128, "width of the first level", least=1, most=4096)
    channel_multipliers: tuple[int, ...] = setting(
        (1, 2, 2, 2),
        "width of each level over channels, finest level first",
        least=1,
        most=64,
        lengths=(1, 8),
    )
    attention: tuple[bool, ...] = setting(
        (False, True, False, False),
        "which levels have attention, finest first",
        lengths=(1, 8),
    )
    blocks: int = setting(
        2, "residual blocks per level going down; one more going up", least=0, most=64
    )
    dropout: float = setting(
        0.1, "rate inside residual blocks, in training", least=0, below=1
    )
    residual_resampling: bool = setting(
        False,
        "resample inside residual blocks (DDPM++), else by a strided convolution and "
        "nearest-neighbour upsampling (DDPM)",
    )
    head_channels: int | None = setting(
        None, "width of an attention head; None is one head", least=1, most=4096
    )
    augment_channels: int = setting(
        0, "numbers in an augmentation label; 0 takes none", least=0, most=4096
    )
    attention_implementation: str | None = attention_setting()
    remat: str = remat_setting()
    self_condition: SelfConditioning = SelfConditioning()

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.channel_multipliers, self.attention)

    def tiny(self) -> "UNet":
        """Two levels of one block at the least width that sees the time."""
        tiny = self.clone(
            channels=32,
            # At 32 channels a group is one channel: its normalisation takes away the
            # embedding that was added to it.
            channel_multipliers=(1, 2),
            attention=(False, any(self.attention)),
            blocks=1,
            dropout=0.1,
            head_channels=None if self.head_channels is None else 16,
        )
        return self.at_same_depth(tiny)

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        count = (self.blocks + 1) * len(self.channel_multipliers)
        return {f"out_{i}": f"out_{i}" for i in range(1, count + 1)}

    def self_condition_taps(self) -> tuple[str, ...]:
        """All taps but the last, after which nothing takes the condition."""
        return tuple(self.tap_paths())[:-1]

    @property
    def self_condition_default(self) -> str:
        """The last block of the coarsest level going up."""
        return f"out_{self.blocks + 1}"

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
          UserError: the images cannot be halved so often or have other channels, class
            labels were given, or augmentation labels that it has no map for.
        """
        self.check_inputs(images, labels, augment_labels)
        source = self.self_condition_path()
        widths = [self.channels * factor for factor in self.channel_multipliers]
        levels = len(widths)
        check_sides(images, 2 ** (levels - 1), "UNet")
        image_channels = images.shape[-1]
        block_type, residual_type = (
            rematerialised(block, self.remat, static_argnums=(3,))
            for block in (ResidualAttentionBlock, ResidualBlock)
        )

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
        x = conv(image_channels, self.channels, 3, dtype=self.dtype, name="image")(
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
                if f"out_{number}" == source:
                    embedding += SelfCondition(
                        self.self_condition, self.dtype, name="self_condition"
                    )(x, embedding)
            if level > 0:
                x = resample(x, embedding, "up", f"up_{level}_resample")

        x = nn.silu(GroupNorm(groups=8, name="norm")(x))
        x = conv(self.channels, image_channels, 3, dtype=self.dtype, name="final")(x)
        return x.astype(jnp.float32)
