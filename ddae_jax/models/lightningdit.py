"""LightningDiT (Yao & Wang 2025, arXiv 2501.01423): DiT with RoPE, SwiGLU, RMSNorm."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.transformer import (
    Attention,
    ClassEmbedding,
    DropPath,
    Linear,
    PatchEmbedding,
    Positions,
    Rotation,
    TimeMLP,
    drop_path_rate,
    modulate,
    modulation,
    patch_kernel_init,
    rotary_angles,
    sincos_init,
    token_grid,
    unpatchify,
)

SIZES = {
    "B": {"hidden_size": 768, "depth": 12, "heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "heads": 16},
}
PATCH_SIZES = (1, 2)

# "LightningDiT-XL/1" and so on, and the fields that they stand for.
PRESETS = {
    f"LightningDiT-{size}/{patch_size}": {**fields, "patch_size": patch_size}
    for size, fields in SIZES.items()
    for patch_size in PATCH_SIZES
}


class SwiGLU(nn.Module):
    """A gated MLP (Shazeer 2020); one linear map gives the gate, then the value."""

    hidden_features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.xavier_uniform()
        hidden = Linear(2 * self.hidden_features, init, self.dtype, name="linear1")(x)
        gate, value = jnp.split(hidden, 2, axis=-1)
        return Linear(x.shape[-1], init, self.dtype, name="linear2")(
            nn.silu(gate) * value
        )


class Block(nn.Module):
    """Attention and a gated MLP, each shifted, scaled and gated by the condition."""

    heads: int
    mlp_features: int
    rotation: Rotation
    drop_path: float
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(
            condition, 6, x.shape[-1], self.dtype
        )
        drop = DropPath(self.drop_path, name="drop_path")
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        branch = Attention(
            self.heads,
            True,
            nn.initializers.xavier_uniform(),
            self.attention_implementation,
            self.dtype,
            name="attention",
        )(modulate(hidden, shift1, scale1), self.rotation)
        x += drop(gate1[:, None, :] * branch)
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        branch = SwiGLU(self.mlp_features, self.dtype, name="mlp")(
            modulate(hidden, shift2, scale2)
        )
        return x + drop(gate2[:, None, :] * branch)


class FinalLayer(nn.Module):
    """Modulated normalisation, then a linear map to patches that starts at zero."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        shift, scale = modulation(condition, 2, x.shape[-1], self.dtype)
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="linear",
        )(modulate(hidden, shift, scale))


class LightningDiT(nn.Module):
    """LightningDiT. Taps layer-0, layer-1, ...: the blocks, in order.

    Fixed sin-cos positions live in the parameter tree, as in PyTorch's, so that a
    checkpoint keeps its own. They get no gradient; `fixed_parameters` names them for
    optimisers that decay weights.

    Attributes:
      image_channels: channels of the image, or of the latent that stands for it.
      patch_size: height and width of a patch, in pixels.
      hidden_size: width of a token.
      depth: number of blocks.
      heads: attention heads.
      mlp_features: width inside the gated MLP; None for 8/3 of `hidden_size`.
      num_classes: classes without the null class, whose label is `num_classes`; 0 for
        an unconditional network.
      time_scale: factor on the network's time; the published weights take the t in
        (0, 1) of Flow as it is.
      drop_path: share of residual branches dropped at the last block, in training;
        earlier blocks drop fewer, the first none.
      attention_implementation: None, "xla" or "cudnn": see models/attention.py.
      dtype: of the computation; parameters are float32.
      remat: recompute blocks in the backward pass to save memory.
    """

    image_channels: int = 32
    patch_size: int = 1
    hidden_size: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_features: int | None = None
    num_classes: int = 1000
    time_scale: float = 1.0
    drop_path: float = 0.0
    attention_implementation: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        return {f"layer-{i}": f"block_{i}" for i in range(self.depth)}

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """Parameters ("/"-joined paths) that training must leave as they are."""
        return ("positions/table",)

    @property
    def null_label(self) -> int:
        """The label that stands for none, as classifier-free guidance needs it."""
        return self.num_classes

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

        Without labels every image has the null class.

        Raises:
          UserError: the images do not divide into patches, augmentation labels were
            given, or class labels to an unconditional network.
        """
        if augment_labels is not None:
            raise UserError("network lightningdit takes no augmentation labels")
        grid = token_grid(images.shape, self.patch_size)
        x = PatchEmbedding(
            self.patch_size,
            self.hidden_size,
            patch_kernel_init(nn.initializers.xavier_uniform()),
            nn.initializers.zeros,
            self.dtype,
            name="patches",
        )(images)
        x = Positions(sincos_init(grid), True, self.dtype, name="positions")(x)
        condition = TimeMLP(self.hidden_size, self.dtype, name="time")(
            time * self.time_scale
        )
        condition += ClassEmbedding(
            self.num_classes, self.hidden_size, self.dtype, name="label"
        )(labels, len(images))

        rotation = rotary_angles(grid, self.hidden_size // self.heads)
        block_type = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            x = block_type(
                self.heads,
                self.mlp_features or int(2 / 3 * 4 * self.hidden_size),
                rotation,
                drop_path_rate(self.drop_path, i, self.depth, train),
                self.attention_implementation,
                self.dtype,
                name=f"block_{i}",
            )(x, condition)
        x = FinalLayer(
            self.patch_size**2 * self.image_channels, self.dtype, name="final"
        )(x, condition)
        return unpatchify(x, grid, self.patch_size).astype(jnp.float32)
