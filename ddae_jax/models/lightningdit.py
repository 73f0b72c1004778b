"""LightningDiT (Yao & Wang 2025, arXiv 2501.01423): DiT with RoPE, SwiGLU, RMSNorm."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ddae_jax.models.base import Network, attention_setting
from ddae_jax.models.remat import remat_setting, rematerialised
from ddae_jax.models.self_conditioning import (
    SelfCondition,
    SelfConditioning,
    SummaryToken,
)
from ddae_jax.models.transformer import (
    ClassEmbedding,
    DropPath,
    PatchEmbedding,
    Positions,
    Rotation,
    TimeMLP,
    check_heads,
    drop_path_rate,
    modulate,
    patch_kernel_init,
    rotary_angles,
    sincos_init,
    token_grid,
    unpatchify,
)
from ddae_jax.models.transformer_layers import (
    ATTENTION_RULES,
    GATED_MLP_RULES,
    MODULATION_RULES,
    Attention,
    SwiGLU,
    modulation,
)
from ddae_jax.runtime.parallel import Rules
from ddae_jax.settings.fields import setting

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


class Block(nn.Module):
    """Attention and a gated MLP, each shifted, scaled and gated by the condition."""

    heads: int
    mlp_features: int
    rotation: Rotation
    drop_path: float
    attention_implementation: str | None
    dtype: Any
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x, condition):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(
            condition, 6, x.shape[-1], self.dtype, self.mesh
        )
        drop = DropPath(self.drop_path, name="drop_path")
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        branch = Attention(
            self.heads,
            True,
            nn.initializers.xavier_uniform(),
            self.attention_implementation,
            self.dtype,
            self.mesh,
            name="attention",
        )(modulate(hidden, shift1, scale1), self.rotation)
        x += drop(gate1[:, None, :] * branch)
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        branch = SwiGLU(self.mlp_features, self.dtype, self.mesh, name="mlp")(
            modulate(hidden, shift2, scale2)
        )
        return x + drop(gate2[:, None, :] * branch)


class FinalLayer(nn.Module):
    """Modulated normalisation, then a linear map to patches that starts at zero."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        shift, scale = modulation(condition, 2, x.shape[-1], self.dtype, None)
        hidden = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="linear",
        )(modulate(hidden, shift, scale))


class LightningDiT(Network):
    """LightningDiT. Taps layer-0, layer-1, ...: the blocks, in order.

    Fixed sin-cos positions live in the parameter tree, as in PyTorch's, so that a
    checkpoint keeps its own. They get no gradient; `fixed_parameters` names them for
    optimisers that decay weights.

    The published weights take the t in (0, 1) of Flow as it is.
    """

    patch_size: int = setting(
        1, "height and width of a patch, in pixels", least=1, most=256
    )
    hidden_size: int = setting(1152, "width of a token", least=4, most=16_384)
    depth: int = setting(28, "number of blocks", least=1, most=128)
    heads: int = setting(16, "attention heads", least=1, most=1024)
    mlp_features: int | None = setting(
        None,
        "width inside the gated MLP; None is 8/3 of hidden_size",
        least=1,
        most=65_536,
    )
    num_classes: int = setting(
        1000,
        "classes without the null class; 0 is unconditional",
        least=0,
        most=1_000_000,
    )
    time_scale: float = setting(1.0, "factor on the network's time", above=0, most=1e6)
    drop_path: float = setting(
        0.0,
        "share of residual branches dropped at the last block, in training; earlier "
        "blocks drop fewer, the first none",
        least=0,
        below=1,
    )
    attention_implementation: str | None = attention_setting()
    remat: str = remat_setting()
    self_condition: SelfConditioning = SelfConditioning()

    summary_token: ClassVar[bool] = True
    partition_rules: ClassVar[Rules] = (
        ATTENTION_RULES + GATED_MLP_RULES + MODULATION_RULES
    )

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.hidden_size, self.heads)

    def tiny(self) -> "LightningDiT":
        """Two narrow blocks."""
        tiny = self.clone(
            patch_size=min(self.patch_size, 2),
            hidden_size=32,
            depth=2,
            heads=2,
            mlp_features=None if self.mlp_features is None else 64,
        )
        return self.at_same_depth(tiny)

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        return {f"layer-{i}": f"block_{i}" for i in range(self.depth)}

    def self_condition_taps(self) -> tuple[str, ...]:
        """All taps: after the last block, the final layer takes the condition."""
        return tuple(self.tap_paths())

    @property
    def self_condition_default(self) -> str:
        """The block in the middle."""
        return f"layer-{self.depth // 2}"

    @property
    def extra_tokens(self) -> int:
        """Tokens before those of the image: the summary token, where there is one."""
        return int(self.self_condition.token)

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """The table of positions."""
        return ("positions/table",)

    @property
    def null_label(self) -> int:
        """The label that stands for no class: the last row of the table."""
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
          UserError: the images do not divide into patches or have other channels,
            augmentation labels were given, or class labels to an unconditional network.
        """
        self.check_inputs(images, labels, augment_labels)
        source = self.self_condition_path()
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
        if self.self_condition.token:
            x = SummaryToken(self.dtype, name="summary_token")(x)
        embedding = TimeMLP(self.hidden_size, self.dtype, name="time")(
            time * self.time_scale
        )
        condition = embedding + ClassEmbedding(
            self.num_classes, self.hidden_size, self.dtype, name="label"
        )(labels, len(images))

        rotation = rotary_angles(
            grid, self.hidden_size // self.heads, self.extra_tokens
        )
        block_type = rematerialised(Block, self.remat)
        for i in range(self.depth):
            x = block_type(
                self.heads,
                self.mlp_features or int(2 / 3 * 4 * self.hidden_size),
                rotation,
                drop_path_rate(self.drop_path, i, self.depth, train),
                self.attention_implementation,
                self.dtype,
                self.mesh,
                name=f"block_{i}",
            )(x, condition)
            if f"block_{i}" == source:
                condition += SelfCondition(
                    self.self_condition, self.dtype, name="self_condition"
                )(x, embedding, self.extra_tokens)
        x = x[:, self.extra_tokens :]
        x = FinalLayer(self.patch_size**2 * images.shape[-1], self.dtype, name="final")(
            x, condition
        )
        return unpatchify(x, grid, self.patch_size).astype(jnp.float32)
