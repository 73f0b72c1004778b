"""Linear maps, attention and MLPs of transformers, which devices can share.

Tensor parallel as Megatron-LM has it (Shoeybi et al. 2019, arXiv 1909.08053): each
device of the mesh's axis "tensor" computes some of the heads, and some of the inner
features of an MLP, for all tokens. Then they add up what they have: one all-reduce of
the tokens for each attention and each MLP, and as many in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import einsum, pack, rearrange, unpack
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ddae_jax.models.attention import dot_product_attention
from ddae_jax.models.transformer import Rotation, rotate
from ddae_jax.runtime import parallel
from ddae_jax.runtime.parallel import TENSOR

_BLOCK = r"(^|/)block_\d+/"
_OF_INPUTS, _OF_OUTPUTS = PartitionSpec(TENSOR), PartitionSpec(None, TENSOR)
MLP_RULES: parallel.Rules = (
    (_BLOCK + "mlp/linear1/kernel$", _OF_OUTPUTS),
    (_BLOCK + "mlp/linear1/bias$", _OF_INPUTS),
    (_BLOCK + "mlp/linear2/kernel$", _OF_INPUTS),
)
GATED_MLP_RULES: parallel.Rules = ((_BLOCK + "mlp/linear[12]/kernel$", _OF_INPUTS),)
ATTENTION_RULES: parallel.Rules = (
    (_BLOCK + "attention/(projection|output)/kernel$", _OF_INPUTS),
)
MODULATION_RULES: parallel.Rules = (
    (_BLOCK + "modulation/kernel$", _OF_OUTPUTS),
    (_BLOCK + "modulation/bias$", _OF_INPUTS),
)
"""Which axis of a parameter the devices of "tensor" share.

The map to queries, keys and values is one matrix, and so is that to gate and value: a
part of its columns would be queries of some heads and keys of others. So its rows are
shared, and before use an all-to-all of it (not of tokens) gives each device the columns
of its heads. `Linear.parts` does that.
"""


class Linear(nn.Module):
    """A linear map of each token.

    It is nn.Dense on one long batch of tokens: XLA then computes the kernel's gradient
    as one matrix product, which saves a seventh of the backward pass on CPU.

    Attributes:
      parts: the output is so many maps beside each other, (*batch, parts, features /
        parts), of which the devices of `mesh` share the features; None: it is one.
    """

    features: int
    kernel_init: Callable
    dtype: Any
    use_bias: bool = True
    parts: int | None = None
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch in_features"]
    ) -> Float[Array, "*batch features"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        kernel = kernel.astype(self.dtype)
        tokens, lengths = pack([x.astype(self.dtype)], "* features")
        if self.parts is not None and self.mesh is not None:
            kernel = self._turned(kernel)
            y = einsum(tokens, kernel, "n i, i part o -> n part o")
        else:
            y = tokens @ kernel
            if self.parts is not None:
                y = rearrange(y, "n (part o) -> n part o", part=self.parts)
        if self.use_bias:
            bias = self.param(
                "bias", nn.initializers.zeros, (self.features,), jnp.float32
            )
            y += bias.astype(self.dtype).reshape(y.shape[1:])
        (y,) = unpack(y, lengths, "* o" if self.parts is None else "* part o")
        return y

    def _turned(self, kernel):
        """From a part of the rows on each device to a part of each map's columns."""
        size = self.mesh.shape[TENSOR]
        apart = rearrange(kernel, "i (part o) -> i part o", part=self.parts)
        if any(length % size for length in (apart.shape[0], apart.shape[-1])):
            return apart
        # Both ends are named, so that the gradient too takes one all-to-all.
        for spec in (PartitionSpec(TENSOR), PartitionSpec(None, None, TENSOR)):
            apart = parallel.constrain(apart, NamedSharding(self.mesh, spec))
        return apart


class Attention(nn.Module):
    """Multi-head self-attention over tokens, with rotary positions where given."""

    heads: int
    use_bias: bool
    kernel_init: Callable
    implementation: str | None
    dtype: Any
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens features"], rotation: Rotation | None = None
    ) -> Float[Array, "batch tokens features"]:
        features = x.shape[-1]
        hidden = Linear(
            3 * features,
            self.kernel_init,
            self.dtype,
            self.use_bias,
            parts=3,
            mesh=self.mesh,
            name="projection",
        )(x)
        hidden = rearrange(hidden, "b t part (h c) -> b t part h c", h=self.heads)
        hidden = parallel.split_axis(hidden, 3, self.mesh)
        query, key, value = jnp.unstack(hidden, axis=2)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        hidden = dot_product_attention(query, key, value, self.implementation)
        hidden = rearrange(hidden, "b t heads c -> b t (heads c)")
        hidden = parallel.split_axis(hidden, -1, self.mesh)
        hidden = Linear(features, self.kernel_init, self.dtype, name="output")(hidden)
        return parallel.split_axis(hidden, -1, self.mesh, None)


class MLP(nn.Module):
    """Two linear maps with a GELU between, exact or by its tanh approximation."""

    hidden_features: int
    approximate_gelu: bool
    kernel_init: Callable
    dtype: Any
    mesh: Mesh | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        hidden = Linear(
            self.hidden_features, self.kernel_init, self.dtype, name="linear1"
        )(x)
        hidden = parallel.split_axis(hidden, -1, self.mesh)
        hidden = nn.gelu(hidden, approximate=self.approximate_gelu)
        hidden = Linear(x.shape[-1], self.kernel_init, self.dtype, name="linear2")(
            hidden
        )
        return parallel.split_axis(hidden, -1, self.mesh, None)


class SwiGLU(nn.Module):
    """A gated MLP (Shazeer 2020); one linear map gives the gate, then the value."""

    hidden_features: int
    dtype: Any
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.xavier_uniform()
        hidden = Linear(
            2 * self.hidden_features,
            init,
            self.dtype,
            parts=2,
            mesh=self.mesh,
            name="linear1",
        )(x)
        hidden = parallel.split_axis(hidden, -1, self.mesh)
        gate, value = jnp.unstack(hidden, axis=-2)
        hidden = Linear(x.shape[-1], init, self.dtype, name="linear2")(
            nn.silu(gate) * value
        )
        return parallel.split_axis(hidden, -1, self.mesh, None)


def modulation(condition, chunks: int, features: int, dtype: Any, mesh: Mesh | None):
    """Shifts, scales and gates from a condition: zero at first (adaLN-zero)."""
    hidden = nn.Dense(
        chunks * features,
        kernel_init=nn.initializers.zeros,
        dtype=dtype,
        name="modulation",
    )(nn.silu(condition))
    # Small, and its parts do not lie on devices evenly: everybody gets all of it.
    hidden = parallel.split_axis(hidden, -1, mesh, None)
    return jnp.split(hidden, chunks, axis=-1)
