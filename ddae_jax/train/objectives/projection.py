"""Small networks on features, trained beside the denoiser and dropped after it."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Normalisation over the batch at hand, on all devices together.

    There are no running statistics: these networks are used in training alone.
    """

    affine: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch features"]
    ) -> Float[Array, "batch features"]:
        """Returns x with mean 0 and variance 1, then scaled and shifted."""
        x = (x - x.mean(axis=0)) * jax.lax.rsqrt(x.var(axis=0) + 1e-5)
        if not self.affine:
            return x
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        return x * scale + self.param("bias", nn.initializers.zeros, shape, jnp.float32)


class Projection(nn.Module):
    """Linear maps with an activation between; float32.

    Attributes:
      widths: of the outputs of the layers.
      batch_norm: each map is without bias and followed by a normalisation over the
        batch, the last one without scale and shift; the activation is then a ReLU (MoCo
        v3, Chen et al. 2021, arXiv 2104.02057), else a SiLU.
    """

    widths: Sequence[int]
    batch_norm: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch out_features"]:
        """Returns the last layer's output."""
        last = len(self.widths) - 1
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=not self.batch_norm, name=f"linear{number}")(x)
            if self.batch_norm:
                x = BatchNorm(affine=number < last, name=f"norm{number}")(x)
            if number < last:
                x = nn.relu(x) if self.batch_norm else nn.silu(x)
        return x
