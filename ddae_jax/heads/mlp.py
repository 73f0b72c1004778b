"""DDAE's noise-conditional classifier of features (Xiang et al., arXiv 2303.09769)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.errors import UserError
from ddae_jax.models.base import Trainable
from ddae_jax.models.layers import linear
from ddae_jax.models.unet import TimeEmbedding

# Below, the sinusoid would have one frequency, and no spacing.
MIN_FEATURES = 16


class NoisyMLP(Trainable):
    """Two layers on features to which an embedding of the noise is added.

    The embedding is the UNet's own: a sinusoid of features/4 numbers, then two linear
    maps with SiLU between.

    Attributes:
      num_classes: of the logits.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "batch features"],
        condition: Float[Array, "batch"],
    ) -> Float[Array, "batch classes"]:
        """Returns logits.

        Args:
          features: of noisy images, pooled.
          condition: the published index of the time, such as DDPM's t, not scaled.

        Raises:
          UserError: fewer than MIN_FEATURES features.
        """
        width = features.shape[-1]
        if width < MIN_FEATURES:
            raise UserError(
                f"{width} features are too few to add a time embedding to; it takes "
                f"{MIN_FEATURES}"
            )
        embedding = TimeEmbedding(width, 0, jnp.float32, name="time")(condition, None)
        x = linear(width, 2 * width, name="hidden")(features + embedding)
        return linear(2 * width, self.num_classes, name="classes")(nn.silu(x))
