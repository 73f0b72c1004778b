"""SongUNet, the network of EDM's CIFAR-10 checkpoints (Karras et al. 2022, table 7).

DDPM++ and NCSN++ of Song et al. (arXiv 2011.13456) in EDM's form; it expects EDM's
time, ln(sigma) / 4.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.base import (
    Network,
    attention_setting,
    check_levels,
)
from ddae_jax.models.remat import remat_setting, rematerialised
from ddae_jax.models.self_conditioning import SelfCondition, SelfConditioning
from ddae_jax.models.songunet_layers import (
    ZERO_GAIN,
    Block,
    Embedding,
    ImageResidual,
    conv,
    group_norm,
)
from ddae_jax.settings.fields import setting


class SongUNet(Network):
    """DDPM++ (the defaults) or NCSN++ (fourier, residual, filter 1 3 3 1, noise 2).

    Taps dec.RxR_NAME are the modules of the decoder by their published names. Those
    named dec.RxR_block0, ..., the blocks that take a skip connection, are also out_1,
    out_2, ... in order; the blocks in0, in1 and up have no number.
    """

    resolution: int = setting(
        32, "height and width of the images in pixels; names blocks", least=1, most=4096
    )
    channels: int = setting(128, "width of the first level", least=4, most=4096)
    channel_multipliers: tuple[int, ...] = setting(
        (2, 2, 2),
        "width of each level over channels, finest level first",
        least=1,
        most=64,
        lengths=(1, 8),
    )
    attention: tuple[bool, ...] = setting(
        (False, True, False),
        "which levels have attention, finest first",
        lengths=(1, 8),
    )
    blocks: int = setting(
        4, "residual blocks per level of the encoder; one more in the decoder",
        least=0,
        most=64,
    )  # fmt: skip
    dropout: float = setting(
        0.13, "rate inside residual blocks, in training", least=0, below=1
    )
    fourier: bool = setting(
        False, "embed the time by random frequencies (NCSN++), else by fixed ones"
    )
    noise_multiplier: int = setting(
        1, "width of the time's embedding over channels", least=1, most=64
    )
    residual_encoder: bool = setting(
        False, "feed the image to every level of the encoder (NCSN++)"
    )
    resample_filter: tuple[float, ...] = setting(
        (1, 1),
        "taps of the resampling filter along one axis, an even number",
        least=-1000,
        most=1000,
        lengths=(2, 32),
    )
    num_classes: int = setting(
        0, "classes without the null class; 0 is unconditional", least=0, most=1_000_000
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
        if self.resolution % 2 ** (len(self.attention) - 1):
            raise UserError(
                f"resolution: {self.resolution} cannot be halved for "
                f"{len(self.attention)} levels (channel_multipliers)"
            )
        if self.channels % 4:
            raise UserError(f"channels: {self.channels} is not a multiple of 4")
        if len(self.resample_filter) % 2 or not sum(self.resample_filter):
            raise UserError(
                f"resample_filter: {self.resample_filter} needs an even number of taps "
                "whose sum is not 0"
            )

    def tiny(self) -> "SongUNet":
        """Two levels of one block at the least width."""
        tiny = self.clone(
            resolution=8,
            channels=32,
            channel_multipliers=(1, 1),
            attention=(False, any(self.attention)),
            blocks=1,
            dropout=0.1,
        )
        return self.at_same_depth(tiny)

    def level_names(self) -> list[str]:
        """Published names of the levels, finest first: 32x32, 16x16, ..."""
        sides = [self.resolution >> i for i in range(len(self.channel_multipliers))]
        return [f"{side}x{side}" for side in sides]

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        taps, number = {}, 0
        names = self.level_names()
        for level in reversed(range(len(names))):
            coarsest = level == len(names) - 1
            parts = ["in0", "in1"] if coarsest else ["up"]
            parts += [f"block{i}" for i in range(self.blocks + 1)]
            parts += ["aux_norm", "aux_conv"] if level == 0 else []
            for part in parts:
                path = f"dec_{names[level]}_{part}"
                taps[path.replace("_", ".", 1)] = path
                if part.startswith("block"):
                    number += 1
                    taps[f"out_{number}"] = path
        return taps

    def self_condition_taps(self) -> tuple[str, ...]:
        """The blocks of the decoder but the last, by their published names."""
        paths = self.tap_paths()
        blocks = [tap for tap in paths if tap.startswith("dec.") and "aux" not in tap]
        return tuple(blocks[:-1])

    @property
    def self_condition_default(self) -> str:
        """The last block of the coarsest level of the decoder."""
        return f"dec.{self.level_names()[-1]}_block{self.blocks}"

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """The random frequencies; the published parameter counts leave them out."""
        return ("embedding/fourier/frequencies",) if self.fourier else ()

    @property
    def null_label(self) -> int | None:
        """The label that stands for no class; None for an unconditional network."""
        return self.num_classes or None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        time: Float[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Returns the raw output F for scaled `images` at `time` = ln(sigma) / 4.

        Without labels no image has a class.

        Raises:
          UserError: the images have another resolution or other channels, or labels
            were given that the network has no map for.
        """
        self.check_inputs(images, labels, augment_labels)
        if images.shape[1:3] != (self.resolution, self.resolution):
            raise UserError(
                f"this SongUNet has resolution={self.resolution}; "
                f"it got images of {images.shape[1]} x {images.shape[2]}"
            )
        source = self.self_condition_path()
        names = self.level_names()
        widths = [self.channels * factor for factor in self.channel_multipliers]
        embedding = Embedding(
            self.channels * self.noise_multiplier,
            4 * self.channels,
            self.fourier,
            self.num_classes,
            self.augment_channels,
            self.dtype,
            name="embedding",
        )(time, labels, augment_labels)
        block_type = rematerialised(Block, self.remat, static_argnums=(3,))

        def block(x, name, width=None, attention=False, resample=None):
            nonlocal embedding
            x = block_type(
                width or x.shape[-1],
                attention,
                self.dropout,
                resample,
                self.resample_filter,
                self.attention_implementation,
                self.dtype,
                name=name,
            )(x, embedding, train)
            if name == source:
                embedding += SelfCondition(
                    self.self_condition, self.dtype, name="self_condition"
                )(x, embedding)
            return x

        x = image = images.astype(self.dtype)
        skips = []
        for level, name in enumerate(names):
            if level == 0:
                x = conv(self.channels, self.dtype, f"enc_{name}_conv")(x)
            else:
                x = block(x, f"enc_{name}_down", resample="down")
                if self.residual_encoder:
                    image = ImageResidual(
                        x.shape[-1],
                        self.resample_filter,
                        self.dtype,
                        name=f"enc_{name}_aux_residual",
                    )(image)
                    x = image = (x + image) * math.sqrt(0.5)
            skips.append(x)
            for i in range(self.blocks):
                x = block(
                    x, f"enc_{name}_block{i}", widths[level], self.attention[level]
                )
                skips.append(x)

        for level in reversed(range(len(names))):
            name = names[level]
            if level == len(names) - 1:
                x = block(x, f"dec_{name}_in0", attention=True)
                x = block(x, f"dec_{name}_in1")
            else:
                x = block(x, f"dec_{name}_up", resample="up")
            for i in range(self.blocks + 1):
                attention = self.attention[level] and i == self.blocks
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, f"dec_{name}_block{i}", widths[level], attention)

        x = group_norm(x.shape[-1], f"dec_{names[0]}_aux_norm")(x)
        x = conv(images.shape[-1], self.dtype, f"dec_{names[0]}_aux_conv", ZERO_GAIN)(
            nn.silu(x)
        )
        return x.astype(jnp.float32)
