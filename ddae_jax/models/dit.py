"""DiT, the diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.transformer import (
    MLP,
    Attention,
    ClassEmbedding,
    DropPath,
    PatchEmbedding,
    Positions,
    TimeMLP,
    drop_path_rate,
    modulate,
    modulation,
    patch_kernel_init,
    sincos_init,
    token_grid,
    unpatchify,
)

SIZES = {
    "S": {"hidden_size": 384, "depth": 12, "heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "heads": 16},
    "XL": {"hidden_size": 1152, "depth": 28, "heads": 16},
}
PATCH_SIZES = (2, 4, 8)

# The published names, "DiT-XL/2" and so on, and the fields that they stand for.
PRESETS = {
    f"DiT-{size}/{patch_size}": {**fields, "patch_size": patch_size}
    for size, fields in SIZES.items()
    for patch_size in PATCH_SIZES
}


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition."""

    heads: int
    mlp_ratio: float
    drop_path: float
    attention_implementation: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        features = x.shape[-1]
        drop = DropPath(self.drop_path, name="drop_path")
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(
            condition, 6, features, self.dtype
        )
        init = nn.initializers.xavier_uniform()
        hidden = modulate(plain_norm(self.dtype)(x), shift1, scale1)
        branch = Attention(
            self.heads,
            True,
            init,
            self.attention_implementation,
            self.dtype,
            name="attention",
        )(hidden)
        x += drop(gate1[:, None, :] * branch)
        hidden = modulate(plain_norm(self.dtype)(x), shift2, scale2)
        branch = MLP(
            int(features * self.mlp_ratio), True, init, self.dtype, name="mlp"
        )(hidden)
        return x + drop(gate2[:, None, :] * branch)


def plain_norm(dtype: Any) -> nn.LayerNorm:
    """Layer normalisation without parameters of its own."""
    return nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype)


class FinalLayer(nn.Module):
    """Modulated normalisation, then a linear map to patches that starts at zero."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        shift, scale = modulation(condition, 2, x.shape[-1], self.dtype)
        hidden = modulate(plain_norm(self.dtype)(x), shift, scale)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="linear",
        )(hidden)


class DiT(nn.Module):
    """DiT. Taps layer-0, layer-1, ...: the blocks, in order.

    The fixed sin-cos positions live in the parameter tree, as in PyTorch's, so that a
    checkpoint keeps its own. They get no gradient; `fixed_parameters` names them for
    optimisers that decay weights.

    Attributes:
      image_channels: channels of the image, or of the latent that stands for it.
      patch_size: height and width of a patch, in pixels.
      hidden_size: width of a token.
      depth: number of blocks.
      heads: attention heads.
      mlp_ratio: width of the MLP over `hidden_size`.
      num_classes: classes without the null class, whose label is `num_classes`; 0 for
        an unconditional network.
      learned_variance: twice the output channels: the noise, then the variance.
      time_scale: factor on the network's time; the published weights take the integer
        t of LearnedVarianceDDPM as it is. For a process that gives t/T, take T.
      drop_path: share of residual branches dropped at the last block, in training;
        earlier blocks drop fewer, the first none.
      attention_implementation: None, "xla" or "cudnn": see models/attention.py.
      dtype: of the computation; parameters are float32.
      remat: recompute blocks in the backward pass to save memory.
    """

    image_channels: int = 4
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learned_variance: bool = True
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
    ) -> Float[Array, "batch height width out_channels"]:
        """Returns the network's output for `images` at the network's `time`.

        Without labels every image has the null class.

        Raises:
          UserError: the images do not divide into patches, augmentation labels were
            given, or class labels to an unconditional network.
        """
        if augment_labels is not None:
            raise UserError("network dit takes no augmentation labels")
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

        block_type = nn.remat(Block) if self.remat else Block
        for i in range(self.depth):
            x = block_type(
                self.heads,
                self.mlp_ratio,
                drop_path_rate(self.drop_path, i, self.depth, train),
                self.attention_implementation,
                self.dtype,
                name=f"block_{i}",
            )(x, condition)
        out_channels = self.image_channels * (2 if self.learned_variance else 1)
        x = FinalLayer(self.patch_size**2 * out_channels, self.dtype, name="final")(
            x, condition
        )
        return unpatchify(x, grid, self.patch_size).astype(jnp.float32)
