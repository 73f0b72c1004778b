"""SongUNet, the network of EDM's CIFAR-10 checkpoints (Karras et al. 2022, table 7).

DDPM++ and NCSN++ of Song et al. (arXiv 2011.13456) in EDM's form; it expects EDM's
time, ln(sigma) / 4.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.songunet_layers import (
    ZERO_GAIN,
    Block,
    Embedding,
    ImageResidual,
    conv,
    group_norm,
)


class SongUNet(nn.Module):
    """DDPM++ (the defaults) or NCSN++ (fourier, residual, filter 1 3 3 1, noise 2).

    Taps dec.RxR_NAME are the modules of the decoder by their published names. Those
    named dec.RxR_block0, ..., the blocks that take a skip connection, are also out_1,
    out_2, ... in order; the blocks in0, in1 and up have no number.

    Attributes:
      image_channels: channels of the image.
      resolution: height and width of the image in pixels; it names the blocks.
      channels: width of the first level.
      channel_multipliers: width of each level over `channels`, finest level first.
      attention: which levels have attention, finest first.
      blocks: residual blocks per level in the encoder; one more in the decoder.
      dropout: rate inside residual blocks, in training.
      fourier: embed the time by random frequencies (NCSN++), else by fixed ones.
      noise_multiplier: width of the time's embedding over `channels`.
      residual_encoder: feed the image to every level of the encoder (NCSN++).
      resample_filter: taps of the resampling filter along one axis.
      num_classes: classes without the null class, whose label is `num_classes`; 0 for
        an unconditional network.
      augment_channels: number of augmentation labels; 0 for none.
      attention_implementation: of jax.nn.dot_product_attention: None, "xla", "cudnn".
      dtype: of the computation; parameters are float32.
      remat: recompute blocks in the backward pass to save memory.
    """

    image_channels: int = 3
    resolution: int = 32
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (2, 2, 2)
    attention: tuple[bool, ...] = (False, True, False)
    blocks: int = 4
    dropout: float = 0.13
    fourier: bool = False
    noise_multiplier: int = 1
    residual_encoder: bool = False
    resample_filter: tuple[float, ...] = (1, 1)
    num_classes: int = 0
    augment_channels: int = 0
    attention_implementation: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

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

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """Parameters ("/"-joined paths) that training must leave as they are.

        The published parameter counts leave them out.
        """
        return ("embedding/fourier/frequencies",) if self.fourier else ()

    @property
    def null_label(self) -> int | None:
        """The label that stands for none; None for an unconditional network."""
        return self.num_classes or None

    def _check(self, images, labels, augment_labels):
        if images.shape[1:3] != (self.resolution, self.resolution):
            raise UserError(
                f"this songunet has resolution={self.resolution}; "
                f"it got images of {images.shape[1]} x {images.shape[2]}"
            )
        if labels is not None and not self.num_classes:
            raise UserError("this songunet has num_classes=0: it takes no class labels")
        if augment_labels is not None and not self.augment_channels:
            raise UserError("this songunet has augment_channels=0: it takes no labels")

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
          UserError: the images have another resolution, or labels were given that the
            network has no map for.
        """
        self._check(images, labels, augment_labels)
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
        block_type = nn.remat(Block, static_argnums=(3,)) if self.remat else Block

        def block(x, name, width=None, attention=False, resample=None):
            return block_type(
                width or x.shape[-1],
                attention,
                self.dropout,
                resample,
                self.resample_filter,
                self.attention_implementation,
                self.dtype,
                name=name,
            )(x, embedding, train)

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
        x = conv(
            self.image_channels, self.dtype, f"dec_{names[0]}_aux_conv", ZERO_GAIN
        )(nn.silu(x))
        return x.astype(jnp.float32)
