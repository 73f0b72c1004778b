"""U-ViT (Bao et al. 2023, arXiv 2209.12152): a transformer with long skips."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from einops import pack
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.base import Network, attention_setting
from ddae_jax.models.layers import (
    conv,
    sinusoidal_embedding,
    torch_bias_init,
    torch_kernel_init,
)
from ddae_jax.models.remat import remat_setting, rematerialised
from ddae_jax.models.self_conditioning import (
    SelfCondition,
    SelfConditioning,
    SummaryToken,
)
from ddae_jax.models.transformer import (
    DropPath,
    PatchEmbedding,
    Positions,
    check_heads,
    drop_path_rate,
    patch_kernel_init,
    token_grid,
    unpatchify,
)
from ddae_jax.models.transformer_layers import (
    ATTENTION_RULES,
    MLP,
    MLP_RULES,
    Attention,
    Linear,
)
from ddae_jax.runtime.parallel import Rules
from ddae_jax.settings.fields import setting

# The sizes of the paper's table 1; `depth` does not count the middle block.
SIZES = {
    "S": {"hidden_size": 512, "depth": 12, "heads": 8},
    "M": {"hidden_size": 768, "depth": 16, "heads": 12},
    "L": {"hidden_size": 1024, "depth": 20, "heads": 16},
    "H": {"hidden_size": 1152, "depth": 28, "heads": 16},
}
PATCH_SIZES = (2, 4)

# The published names, "U-ViT-S/2" and so on, and the fields that they stand for.
PRESETS = {
    f"U-ViT-{size}/{patch_size}": {
        **fields,
        "patch_size": patch_size,
        "final_convolution": size != "H",
    }
    for size, fields in SIZES.items()
    for patch_size in PATCH_SIZES
}

# torch truncates at 100 standard deviations: not at all.
_init = nn.initializers.normal(0.02)


class Block(nn.Module):
    """Attention and MLP on normalised tokens; a skip is merged by a linear map."""

    heads: int
    mlp_ratio: float
    attention_bias: bool
    drop_path: float
    attention_implementation: str | None
    dtype: Any
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x, skip=None):
        features = x.shape[-1]
        drop = DropPath(self.drop_path, name="drop_path")
        if skip is not None:
            x = Linear(features, _init, self.dtype, name="skip")(
                jnp.concatenate([x, skip], axis=-1)
            )
        branch = Attention(
            self.heads,
            self.attention_bias,
            _init,
            self.attention_implementation,
            self.dtype,
            self.mesh,
            name="attention",
        )(nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm1")(x))
        x += drop(branch)
        branch = MLP(
            int(features * self.mlp_ratio),
            False,
            _init,
            self.dtype,
            self.mesh,
            name="mlp",
        )(nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm2")(x))
        return x + drop(branch)


class TimeToken(nn.Module):
    """Sinusoids of the time, cosines first; an MLP after them where asked for."""

    features: int
    mlp: bool
    dtype: Any

    @nn.compact
    def __call__(self, time):
        token = sinusoidal_embedding(
            time, self.features, last_frequency_included=False, cosine_first=True
        ).astype(self.dtype)
        if not self.mlp:
            return token
        hidden = nn.Dense(
            4 * self.features, kernel_init=_init, dtype=self.dtype, name="linear1"
        )(token)
        return nn.Dense(
            self.features, kernel_init=_init, dtype=self.dtype, name="linear2"
        )(nn.silu(hidden))


class UViT(Network):
    """U-ViT. Taps block_0, block_1, ...: in, middle and out blocks, in order.

    A tap holds the tokens (label if conditional, time, patches row by row; before them
    the summary token of self-conditioning, if it has one): the first `extra_tokens` are
    no part of the image.

    `time_scale` under DDPM, whose network time is t/T: 1 for the U-ViT of DDAE's
    authors (FutureXiang/Diffusion); 999 for U-ViT's pixel-space weights, 1000 for its
    latent-space ones.
    """

    patch_size: int = setting(
        2, "height and width of a patch, in pixels", least=1, most=256
    )
    hidden_size: int = setting(512, "width of a token", least=4, most=16_384)
    depth: int = setting(
        12,
        "in and out blocks, an even number; a middle one comes between",
        least=1,
        most=128,
    )
    heads: int = setting(8, "attention heads", least=1, most=1024)
    mlp_ratio: float = setting(
        4.0, "width of the MLP over hidden_size", least=0.25, most=64
    )
    num_classes: int = setting(
        0, "classes without the null class; 0 is unconditional", least=0, most=1_000_000
    )
    null_class: bool = setting(
        False, "one more label, num_classes, for none; taken where none is given"
    )
    attention_bias: bool = setting(False, "queries, keys and values have a bias")
    time_mlp: bool = setting(False, "an MLP after the sinusoids of the time")
    final_convolution: bool = setting(
        True, "a 3x3 convolution after the patches (all sizes but H)"
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
    partition_rules: ClassVar[Rules] = ATTENTION_RULES + MLP_RULES

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.hidden_size, self.heads)
        if self.depth % 2:
            raise UserError(f"depth: {self.depth} is not even")
        if self.hidden_size % 2:
            raise UserError(f"hidden_size: {self.hidden_size} is not even")

    def tiny(self) -> "UViT":
        """A narrow block on each side of the middle one."""
        tiny = self.clone(
            patch_size=min(self.patch_size, 2), hidden_size=32, depth=2, heads=2
        )
        return self.at_same_depth(tiny)

    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule, in order of depth."""
        return {f"block_{i}": f"block_{i}" for i in range(self.depth + 1)}

    def self_condition_taps(self) -> tuple[str, ...]:
        """All taps: after the last block, the tokens still go to the decoder."""
        return tuple(self.tap_paths())

    @property
    def self_condition_default(self) -> str:
        """The block in the middle."""
        return f"block_{self.depth // 2}"

    @property
    def extra_tokens(self) -> int:
        """Tokens before those of the image: summary and label (if any), and time."""
        return self.self_condition.token + (2 if self.label_rows else 1)

    @property
    def label_rows(self) -> int:
        """Rows of the label table; 0 where there is none."""
        return self.num_classes + self.null_class

    @property
    def null_label(self) -> int | None:
        """The label that stands for none, or None where the table has no such row."""
        return self.num_classes if self.null_class else None

    def _labels(self, labels, batch):
        if labels is not None:
            return labels
        if not self.null_class and not self.is_initializing():
            raise UserError(
                f"this UViT is conditional on {self.num_classes} classes and has no "
                "null class: give it class labels"
            )
        return jnp.full(batch, self.label_rows - 1)

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
          UserError: the images do not divide into patches or have other channels; class
            labels were given to an unconditional network, or none to one without a null
            class; augmentation labels were given.
        """
        self.check_inputs(images, labels, augment_labels)
        source = self.self_condition_path()
        channels = images.shape[-1]
        batch, grid = len(images), token_grid(images.shape, self.patch_size)
        patches = PatchEmbedding(
            self.patch_size,
            self.hidden_size,
            patch_kernel_init(torch_kernel_init),
            torch_bias_init(channels * self.patch_size**2),
            self.dtype,
            name="patches",
        )(images)
        embedding = TimeToken(self.hidden_size, self.time_mlp, self.dtype, name="time")(
            time * self.time_scale
        )
        extra = [embedding]
        if self.label_rows:
            table = nn.Embed(
                self.label_rows,
                self.hidden_size,
                embedding_init=nn.initializers.normal(1.0),
                dtype=self.dtype,
                name="label",
            )
            extra.insert(0, table(self._labels(labels, batch)))
        x, _ = pack([*extra, patches], "b * features")
        x = Positions(_init, False, self.dtype, name="positions")(x)
        if self.self_condition.token:
            x = SummaryToken(self.dtype, name="summary_token")(x)

        block_type = rematerialised(Block, self.remat)
        skips = []
        for i in range(self.depth + 1):
            block = block_type(
                self.heads,
                self.mlp_ratio,
                self.attention_bias,
                drop_path_rate(self.drop_path, i, self.depth + 1, train),
                self.attention_implementation,
                self.dtype,
                self.mesh,
                name=f"block_{i}",
            )
            if i <= self.depth // 2:
                x = block(x)
                skips.append(x)
            else:
                x = block(x, skips.pop())
            if i == self.depth // 2:
                skips.pop()  # the middle block has no skip of its own
            if f"block_{i}" == source:
                # A skip from here is the tap itself: what is added goes on alone.
                added = SelfCondition(
                    self.self_condition, self.dtype, name="self_condition"
                )(x, embedding, self.extra_tokens)
                others, patches = jnp.split(x, [self.extra_tokens], axis=1)
                x = jnp.concatenate([others, patches + added[:, None, :]], axis=1)

        x = x[:, self.extra_tokens :]
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        x = nn.Dense(
            self.patch_size**2 * channels,
            kernel_init=_init,
            dtype=self.dtype,
            name="decoder",
        )(x)
        x = unpatchify(x, grid, self.patch_size)
        if self.final_convolution:
            x = conv(channels, channels, 3, dtype=self.dtype, name="final")(x)
        return x.astype(jnp.float32)
