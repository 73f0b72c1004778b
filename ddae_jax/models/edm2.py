"""The UNet of EDM2 (Karras et al., arXiv 2312.02696), configurations C and E.

In the form of FutureXiang/edm2, the sizes that DDAE's authors trained. It expects
EDM's time, ln(sigma) / 4.
"""

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.models.base import (
    Network,
    attention_setting,
    check_levels,
    check_sides,
)
from ddae_jax.models.edm2_layers import (
    Block,
    Embedding,
    Kernel,
    Uncertainty,
    normalize_kernel,
)
from ddae_jax.models.layers import GroupNorm
from ddae_jax.models.remat import remat_setting, rematerialised
from ddae_jax.settings.fields import setting


class EDM2UNet(Network):
    """EDM2's UNet. Taps out_1, out_2, ...: all blocks of the up path, in order.

    The blocks that double the resolution count too, as in the published code. Widths
    are multiples of 32, the groups of its normalisations.
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
        2,
        "residual blocks per level going down, without the one that halves; one more "
        "going up (the published n_blocks less 1)",
        least=0,
        most=64,
    )
    dropout: float = setting(
        0.13, "rate inside residual blocks, in training", least=0, below=1
    )
    weight_normalization: bool = setting(
        False,
        "configuration E: kernels are used normalised, activations are clipped; else C",
    )
    uncertainty: bool = setting(
        True, "learn the log-variance of the loss as a function of the time"
    )
    head_channels: int | None = setting(
        None, "width of an attention head; None is one head", least=1, most=4096
    )
    attention_implementation: str | None = attention_setting()
    remat: str = remat_setting()

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.channel_multipliers, self.attention)

    def tiny(self) -> "EDM2UNet":
        """Two levels of one block at the least width."""
        return self.clone(
            channels=32,
            channel_multipliers=(1, 1),
            attention=(False, any(self.attention)),
            blocks=1,
            dropout=0.1,
            head_channels=None if self.head_channels is None else 16,
        )

    def setup(self):
        if self.uncertainty:
            self.loss_uncertainty = Uncertainty(self.weight_normalization)

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        count = (self.blocks + 2) * len(self.channel_multipliers) - 1
        return {f"out_{i}": f"out_{i}" for i in range(1, count + 1)}

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """The random frequencies and phases.

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
          UserError: the images cannot be halved so often or have other channels, or
            class or augmentation labels were given.
        """
        self.check_inputs(images, labels, augment_labels)
        if self.uncertainty and self.is_initializing():
            self.log_variance(time)
        widths = [self.channels * factor for factor in self.channel_multipliers]
        levels = len(widths)
        check_sides(images, 2 ** (levels - 1), "EDM2 UNet")
        normalized = self.weight_normalization
        embedding = Embedding(
            4 * self.channels, normalized, self.dtype, name="embedding"
        )(time)
        block_type = rematerialised(Block, self.remat, static_argnums=(3,))

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
        return conv(images.shape[-1], "final")(x).astype(jnp.float32)
