"""AlignedReID's head (Zhang et al. 2017, arXiv 1711.08184): a global feature, stripes.

It takes any map: a ResNet's, a UNet's tap, or the tokens of a transformer that
models/pooling.py gave the layout of the image.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.errors import UserError
from ddae_jax.models.batch_norm import RunningBatchNorm
from ddae_jax.models.layers import linear


def _largest(
    feature_map: Float[Array, "batch rows columns channels"],
) -> Float[Array, "batch rows channels"]:
    # The gradient of jnp.max looks for what equals the maximum, and is NaN where XLA
    # works both out separately and they differ by rounding.
    return nn.max_pool(feature_map, (1, feature_map.shape[2]))[:, :, 0]


POOLINGS = {"mean": lambda feature_map: feature_map.mean(axis=2), "max": _largest}
"""Over the width of a stripe: the mean, or as in the paper the maximum."""


class AlignedFeatures(NamedTuple):
    """Attributes:
    whole: the global feature, the mean over the map.
    stripes: a vector for each row of the map, from top to bottom; not negative.
    logits: of the identities, from the global feature; None without classes.
    """

    whole: Float[Array, "batch channels"]
    stripes: Float[Array, "batch rows stripe_features"]
    logits: Float[Array, "batch classes"] | None


class AlignedHead(nn.Module):
    """Pooling, and for stripes a 1x1 convolution, batch normalisation and a ReLU.

    In training, `apply` needs mutable=["batch_stats"]: see `RunningBatchNorm`. All is
    float32.

    Attributes:
      num_classes: identities of the logits; 0: no logits.
      stripe_features: of each stripe.
      pooling: over the width of a stripe, a key of POOLINGS.
    """

    num_classes: int = 0
    stripe_features: int = 128
    pooling: str = "mean"

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise UserError(
                f"pooling {self.pooling!r} is unknown; known: {', '.join(POOLINGS)}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, feature_map: Float[Array, "batch rows columns channels"], *, train: bool
    ) -> AlignedFeatures:
        """Returns the features of each image.

        Args:
          train: normalise by the batch, and let the running statistics follow.
        """
        feature_map = feature_map.astype(jnp.float32)
        channels = feature_map.shape[-1]
        whole = feature_map.mean(axis=(1, 2))
        stripes = POOLINGS[self.pooling](feature_map)
        # A bias would be lost in the normalisation.
        reduce = linear(channels, self.stripe_features, use_bias=False, name="reduce")
        norm = RunningBatchNorm(name="norm")
        stripes = nn.relu(norm(reduce(stripes), train=train))
        logits = None
        if self.num_classes:
            logits = nn.Dense(
                self.num_classes,
                kernel_init=nn.initializers.normal(1e-3),
                name="classes",
            )(whole)
        return AlignedFeatures(whole, stripes, logits)
