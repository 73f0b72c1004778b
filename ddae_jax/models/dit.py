"""DiT, the diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748)."""

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
    TimeMLP,
    check_heads,
    drop_path_rate,
    modulate,
    patch_kernel_init,
    sincos_init,
    token_grid,
    unpatchify,
)
from ddae_jax.models.transformer_layers import (
    ATTENTION_RULES,
    MLP,
    MLP_RULES,
    MODULATION_RULES,
    Attention,
    modulation,
)
from ddae_jax.runtime.parallel import Rules
from ddae_jax.settings.fields import setting

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
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x, condition):
        features = x.shape[-1]
        drop = DropPath(self.drop_path, name="drop_path")
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(
            condition, 6, features, self.dtype, self.mesh
        )
        init = nn.initializers.xavier_uniform()
        hidden = modulate(plain_norm(self.dtype)(x), shift1, scale1)
        branch = Attention(
            self.heads,
            True,
            init,
            self.attention_implementation,
            self.dtype,
            self.mesh,
            name="attention",
        )(hidden)
        x += drop(gate1[:, None, :] * branch)
        hidden = modulate(plain_norm(self.dtype)(x), shift2, scale2)
        branch = MLP(
            int(features * self.mlp_ratio),
            True,
            init,
            self.dtype,
            self.mesh,
            name="mlp",
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
        shift, scale = modulation(condition, 2, x.shape[-1], self.dtype, None)
        hidden = modulate(plain_norm(self.dtype)(x), shift, scale)
        return nn.Dense(
            self.features,
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="linear",
        )(hidden)


class DiT(Network):
    """DiT. Taps layer-0, layer-1, ...: the blocks, in order.

    The fixed sin-cos positions live in the parameter tree, as in PyTorch's, so that a
    checkpoint keeps its own. They get no gradient; `fixed_parameters` names them for
    optimisers that decay weights.

    The published weights take the integer t of LearnedVarianceDDPM as it is; for a
    process that gives t/T, `time_scale` is T.
    """

    patch_size: int = setting(
        2, "height and width of a patch, in pixels", least=1, most=256
    )
    hidden_size: int = setting(1152, "width of a token", least=4, most=16_384)
    depth: int = setting(28, "number of blocks", least=1, most=128)
    heads: int = setting(16, "attention heads", least=1, most=1024)
    mlp_ratio: float = setting(
        4.0, "width of the MLP over hidden_size", least=0.25, most=64
    )
    num_classes: int = setting(
        1000,
        "classes without the null class; 0 is unconditional",
        least=0,
        most=1_000_000,
    )
    learned_variance: bool = setting(
        True, "twice the output channels: the noise, then the variance"
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
    partition_rules: ClassVar[Rules] = ATTENTION_RULES + MLP_RULES + MODULATION_RULES

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.hidden_size, self.heads)

    def tiny(self) -> "DiT":
        """Two narrow blocks."""
        tiny = self.clone(
            patch_size=min(self.patch_size, 2), hidden_size=32, depth=2, heads=2
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
    ) -> Float[Array, "batch height width out_channels"]:
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

        block_type = rematerialised(Block, self.remat)
        for i in range(self.depth):
            x = block_type(
                self.heads,
                self.mlp_ratio,
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
        out_channels = images.shape[-1] * (2 if self.learned_variance else 1)
        x = FinalLayer(self.patch_size**2 * out_channels, self.dtype, name="final")(
            x, condition
        )
        return unpatchify(x, grid, self.patch_size).astype(jnp.float32)
