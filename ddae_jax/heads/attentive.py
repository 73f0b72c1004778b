"""A head that attends over the positions of a tap, instead of their mean.

Layer norm, learned queries that attend over all positions with several heads, and a
linear layer: the attentive probe of V-JEPA (Bardes et al. 2024, arXiv 2404.08471,
section 4.2) and CAPI (Darcet et al. 2025, arXiv 2502.08769) in its smallest form.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.errors import UserError
from ddae_jax.heads import linear

Positions = Float[Array, "batch positions features"]

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class AttentiveHead:
    """The head's sizes; its parameters travel apart, as those of `linear.LinearHead`.

    Attributes:
      heads: of the attention; they divide the features.
      queries: learned ones; the linear layer sees the results of all.
    """

    heads: int = 8
    queries: int = 1

    def init(
        self, key: PRNGKeyArray, width: int, class_count: int
    ) -> dict[str, dict[str, Array] | Array]:
        """Draws the parameters for positions of `width` features.

        Raises:
          UserError: the heads do not divide the features.
        """
        if width % self.heads:
            raise UserError(
                f"{self.heads} attention heads do not divide {width} features"
            )
        query_key, key_key, value_key, linear_key = jax.random.split(key, 4)
        bound = width**-0.5

        def matrix(key):
            return jax.random.uniform(
                key, (width, width), minval=-bound, maxval=bound, dtype=jnp.float32
            )

        return {
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "query": 0.02 * jax.random.normal(query_key, (self.queries, width)),
            "key": matrix(key_key),
            "value": matrix(value_key),
            "linear": linear.init_head(linear_key, self.queries * width, class_count),
        }

    def logits(
        self, head: dict[str, dict[str, Array] | Array], features: Positions
    ) -> Float[Array, "batch classes"]:
        """Applies the head.

        Keys and values of single positions are never made: products of matrices are
        regrouped so that a position costs heads x queries x width operations, not
        width^2.
        """
        attended = _attend(head, _normalise(head["norm"], features), self.heads)
        return linear.logits(head["linear"], attended)


def _normalise(norm, features):
    mean = features.mean(axis=-1, keepdims=True)
    variance = features.var(axis=-1, keepdims=True)
    standard = (features - mean) * jax.lax.rsqrt(variance + _EPSILON)
    return standard * norm["scale"] + norm["bias"]


def _attend(head, positions, heads):
    """Multi-head attention of the learned queries: (batch, queries x width)."""
    query = rearrange(head["query"], "q (h d) -> h q d", h=heads)
    key = rearrange(head["key"], "c (h d) -> h c d", h=heads)
    value = rearrange(head["value"], "c (h d) -> h c d", h=heads)
    # (x K) q = x (K q)
    directions = jnp.einsum("hcd,hqd->hqc", key, query) * query.shape[-1] ** -0.5
    scores = jnp.einsum("bnc,hqc->bhqn", positions, directions)
    weights = jax.nn.softmax(scores, axis=-1)
    # sum_n w_n (x_n V) = (sum_n w_n x_n) V
    means = jnp.einsum("bhqn,bnc->bhqc", weights, positions)
    results = jnp.einsum("bhqc,hcd->bqhd", means, value)
    return results.reshape(len(results), -1)
