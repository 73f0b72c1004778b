"""Self-conditioning of DDAE++ (Xiang et al., arXiv 2505.10999).

One of the network's own intermediate outputs, averaged over the image, becomes part of
the condition of everything that comes after it. This is not the self-conditioning of
Chen et al. (arXiv 2208.04202), which feeds the last estimate of the clean image back.

The paper's code is not public: every constant of the architecture here is our choice.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, Float

from ddae_jax.models.pooling import pool
from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class SelfConditioning:
    """Settings of DDAE++'s self-conditioning; not Chen et al.'s, see above.

    The time's embedding is, in UNets, all that the condition holds at the source.
    What the default tap is, the mean, the scale, the normalisation and where the result
    is added are our choices, for the paper's are not public.
    """

    tap: str = setting(
        "",
        "source tap, which conditions what comes after it; empty: off; default: the "
        "network's own choice; auto: short runs before training choose",
    )
    time_scaling: bool = setting(
        True, "scale what is added by a learned linear function of the time's embedding"
    )
    stop_gradient: bool = setting(
        False, "train the source and what is before it by other paths alone"
    )
    summary: str = setting(
        "mean",
        "of the source: mean over the image, or cls, a learned token (transformers)",
        choices=("mean", "cls"),
    )

    @property
    def token(self) -> bool:
        """Whether the tokens of a transformer start with a learned one."""
        return bool(self.tap) and self.summary == "cls"


class SummaryToken(nn.Module):
    """Puts a learned token before all others: the summary "cls".

    It takes part in attention, so that a new network does not compute what one without
    it does. Its first value is drawn from N(0, 0.02^2), our choice.
    """

    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens+1 features"]:
        token = self.param(
            "token", nn.initializers.normal(0.02), (x.shape[-1],), jnp.float32
        )
        first = repeat(token.astype(self.dtype), "c -> b 1 c", b=len(x))
        return jnp.concatenate([first, x], axis=1)


class SelfCondition(nn.Module):
    """Source tap -> what is added to the condition of what comes after it.

    The summary is normalised without learned scale and bias, in float32. A linear map
    that starts at zero takes it to the width of the condition, so that a new network
    computes what one without self-conditioning does. The result is scaled by one number
    per example, a linear function of the time's embedding that starts as 1.
    """

    settings: SelfConditioning
    dtype: Any

    @nn.compact
    def __call__(
        self,
        tap: Float[Array, "batch *positions features"],
        embedding: Float[Array, "batch width"],
        extra_tokens: int = 0,
    ) -> Float[Array, "batch width"]:
        """Returns what to add.

        Args:
          tap: (batch, height, width, features) or (batch, tokens, features).
          embedding: of the time; as wide as the condition.
          extra_tokens: how many tokens of the tap come before those of the image; the
            first is the one of `SummaryToken`, where there is one.
        """
        if self.settings.token:
            summary = tap[:, 0].astype(jnp.float32)
        else:  # the vector that a probe takes
            summary = pool(tap, extra_tokens)
        if self.settings.stop_gradient:
            summary = jax.lax.stop_gradient(summary)
        # The mean of features may be large beside their spread: no fast variance.
        summary = nn.LayerNorm(
            epsilon=1e-6, use_bias=False, use_scale=False, use_fast_variance=False
        )(summary)
        added = nn.Dense(
            embedding.shape[-1],
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="projection",
        )(summary)
        if not self.settings.time_scaling:
            return added
        scale = nn.Dense(
            1,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.ones,
            dtype=self.dtype,
            name="time_scale",
        )(embedding)
        return scale * added
