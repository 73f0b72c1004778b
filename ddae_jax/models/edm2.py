"""The UNet of EDM2 (Karras et al., arXiv 2312.02696), configurations C and E.

In the form of FutureXiang/edm2, the sizes that DDAE's authors trained. It expects
EDM's time, ln(sigma) / 4.
"""

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.edm2_layers import (
    Block,
    Embedding,
    Kernel,
    Uncertainty,
    normalize_kernel,
)
from ddae_jax.models.layers import GroupNorm


class EDM2UNet(nn.Module):
    """EDM2's UNet. Taps out_1, out_2, ...: all blocks of the up path, in order.

    The blocks that double the resolution count too, as in the published code.

    Attributes:
      image_channels: channels of the image.
      channels: width of the first level.
      channel_multipliers: width of each level over `channels`, finest level first.
      attention: which levels have attention, finest first.
      blocks: residual blocks per level on the way down, not counting the one that
        halves the resolution; one more on the way up. The published n_blocks less 1.
      dropout: rate inside residual blocks, in training.
      weight_normalization: False is configuration C; True configuration E, whose
        kernels are used normalised and whose activations are clipped.
      uncertainty: learn the log-variance of the loss as a function of the time.
      head_channels: width of an attention head; None for one head.
      attention_implementation: of jax.nn.dot_product_attention: None, "xla", "cudnn".
      dtype: of the computation; parameters are float32.
      remat: recompute blocks in the backward pass to save memory.
    """

    image_channels: int = 3
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    attention: tuple[bool, ...] = (False, True, False, False)
    blocks: int = 2
    dropout: float = 0.13
    weight_normalization: bool = False
    uncertainty: bool = True
    head_channels: int | None = None
    attention_implementation: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self):
        if self.uncertainty:
            self.loss_uncertainty = Uncertainty(self.weight_normalization)

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        count = (self.blocks + 2) * len(self.channel_multipliers) - 1
        return {f"out_{i}": f"out_{i}" for i in range(1, count + 1)}

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """Parameters ("/"-joined paths) that training must leave as they are.

        The published parameter counts leave them out, and loss_uncertainty/ too.
        """
        modules = ["embedding"] + ["loss_uncertainty"] * self.uncertainty
        return tuple(
            f"{module}/fourier/{leaf}"
            for module in modules
            for leaf in ("frequencies", "phases")
        )

    def project(self, params: dict) -> dict:
        """Forced weight normalisation: `params` with kernels of unit variance.

        The network's function does not change; the size of an update relative to the
        weights does not decay as they would otherwise grow (section 2.3). For
        configuration C, `params` as they are.
        """
        if not self.weight_normalization:
            return params
        flat = flax.traverse_util.flatten_dict(params)
        return flax.traverse_util.unflatten_dict(
            {
                path: normalize_kernel(leaf) if path[-1] == "kernel" else leaf
                for path, leaf in flat.items()
            }
        )

    def log_variance(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Learned log-variance u of the loss at the network's `time`.

        Training minimises loss / exp(u) + u (equation 15); sampling ignores it.
        """
        return self.loss_uncertainty(time)

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

        Raises:
          UserError: class or augmentation labels were given.
        """
        if labels is not None:
            raise UserError("network edm2 is unconditional: it takes no class labels")
        if augment_labels is not None:
            raise UserError("network edm2 takes no augmentation labels")
        if self.uncertainty and self.is_initializing():
            self.log_variance(time)
        widths = [self.channels * factor for factor in self.channel_multipliers]
        levels = len(widths)
        normalized = self.weight_normalization
        embedding = Embedding(
            4 * self.channels, normalized, self.dtype, name="embedding"
        )(time)
        block_type = nn.remat(Block, static_argnums=(3,)) if self.remat else Block

        def block(x, name, width, attention=False, resample=None):
            return block_type(
                width,
                attention,
                self.dropout,
                resample,
                self.head_channels,
                normalized,
                self.attention_implementation,
                self.dtype,
                name=name,
            )(x, embedding, train)

        def conv(features, name):
            return Kernel(features, 3, normalized, self.dtype, name=name)

        # A channel of ones stands in for the biases that the convolutions lack.
        x = jnp.concatenate([images, jnp.ones_like(images[..., :1])], axis=-1)
        x = conv(self.channels, "image")(x)
        skips = [x]
        for level, width in enumerate(widths):
            for i in range(self.blocks):
                x = block(x, f"down_{level}_{i}", width, self.attention[level])
                skips.append(x)
            if level < levels - 1:
                x = block(x, f"down_{level}_resample", width, resample="down")
                skips.append(x)

        x = block(x, "middle_1", widths[-1], attention=True)
        x = block(x, "middle_2", widths[-1])

        number = 0
        for level in reversed(range(levels)):
            for _ in range(self.blocks + 1):
                number += 1
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, f"out_{number}", widths[level], self.attention[level])
            if level > 0:
                number += 1
                x = block(x, f"out_{number}", widths[level], resample="up")

        x = nn.silu(GroupNorm(groups=8, affine=False, name="norm")(x))
        return conv(self.image_channels, "final")(x).astype(jnp.float32)
