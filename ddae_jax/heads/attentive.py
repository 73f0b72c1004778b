"""A head that attends over the positions of a tap, instead of their mean.

Layer norm, learned queries that attend over all positions with several heads, and a
linear layer: the attentive probe of V-JEPA (Bardes et al. 2024, arXiv 2404.08471,
section 4.2) and CAPI (Darcet et al. 2025, arXiv 2502.08769) in its smallest form.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.errors import UserError
from ddae_jax.heads import linear

Positions = Float[Array, "batch positions features"]

_EPSILON = 1e-6


class AttentiveModule(nn.Module):
    """The head as a flax module, for positions of one width.

    Attributes:
      heads: of the attention; they divide the features.
      queries: learned ones; the linear layer sees the results of all.
      class_count: of the logits.
    """

    heads: int
    queries: int
    class_count: int

    @nn.compact
    def __call__(self, features: Positions) -> Float[Array, "batch classes"]:
        """Returns logits.

        Keys and values of single positions are never made: products of matrices are
        regrouped so that a position costs heads x queries x width operations, not
        width^2.
        """
        width = features.shape[-1]
        positions = nn.LayerNorm(_EPSILON, use_fast_variance=False, name="norm")(
            features
        )
        normal = nn.initializers.normal(0.02)
        query = self.param("query", normal, (self.queries, width))
        key = self.param("key", _uniform, (width, width))
        value = self.param("value", _uniform, (width, width))
        attended = _attend(query, key, value, positions, self.heads)
        last = self.param(
            "linear", linear.init_head, self.queries * width, self.class_count
        )
        return linear.logits(last, attended)


@dataclasses.dataclass(frozen=True)
class AttentiveHead:
    """The module as a `linear.Kind`; `heads` and `queries` as there."""

    heads: int = 8
    queries: int = 1
    pooled: bool = False

    def check(self, width: int) -> None:
        """Raises a UserError where the heads do not divide the features."""
        if width % self.heads:
            raise UserError(
                f"{self.heads} attention heads do not divide {width} features"
            )

    def protocol(self) -> dict[str, Any]:
        """Its sizes."""
        return {
            "attention_heads": self.heads,
            "queries": self.queries,
            "raw_pixels": "one position",
        }

    def init(self, key: PRNGKeyArray, width: int, class_count: int) -> dict:
        """Draws the parameters for positions of `width` features.

        Raises:
          UserError: the heads do not divide the features.
        """
        self.check(width)
        module = AttentiveModule(self.heads, self.queries, class_count)
        return module.init(key, jnp.zeros((1, 1, width)))["params"]

    def logits(self, head: dict, features: Positions) -> Float[Array, "batch classes"]:
        """Applies the head."""
        (class_count,) = head["linear"]["bias"].shape
        module = AttentiveModule(self.heads, self.queries, class_count)
        return module.apply({"params": head}, features)


def _uniform(key, shape):
    """As PyTorch's linear layers: within 1/sqrt(width)."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _attend(query, key, value, positions, heads):
    """Multi-head attention of the learned queries: (batch, queries x width)."""
    query = rearrange(query, "q (h d) -> h q d", h=heads)
    key = rearrange(key, "c (h d) -> h c d", h=heads)
    value = rearrange(value, "c (h d) -> h c d", h=heads)
    # (x K) q = x (K q)
    directions = jnp.einsum("hcd,hqd->hqc", key, query) * query.shape[-1] ** -0.5
    scores = jnp.einsum("bnc,hqc->bhqn", positions, directions)
    weights = jax.nn.softmax(scores, axis=-1)
    # sum_n w_n (x_n V) = (sum_n w_n x_n) V
    means = jnp.einsum("bhqn,bnc->bhqc", weights, positions)
    results = jnp.einsum("bhqc,hcd->bqhd", means, value)
    return rearrange(results, "b q h d -> b (q h d)")
