"""Batch normalisation with running statistics, as PyTorch keeps them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Of a running statistic, for each training step; PyTorch's momentum is 1 - DECAY.
DECAY = 0.9
EPSILON = 1e-5


class RunningBatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167) of the last axis.

    In training the statistics are those of the global batch, on all devices together,
    and the collection "batch_stats" follows: it must be mutable. Otherwise the running
    statistics normalise. All statistics are float32. The running variance follows the
    unbiased one, as in PyTorch; `nn.BatchNorm`'s follows the biased.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch channels"], *, train: bool
    ) -> Float[Array, "*batch channels"]:
        """Returns `x` normalised, scaled and shifted, in its own dtype."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, shape)
        x32 = x.astype(jnp.float32)
        mean, variance = running_mean.value, running_variance.value
        if train:
            axes = tuple(range(x.ndim - 1))
            # In one pass over x: the mean and the mean square are read together, both
            # seen from some value of x, because far from 0 they would cancel.
            near = jax.lax.stop_gradient(x32[(0,) * len(axes)])
            shifted = x32 - near
            offset = shifted.mean(axes)
            mean = near + offset
            variance = jnp.maximum((shifted * shifted).mean(axes) - offset**2, 0)
            if not self.is_initializing():
                values = math.prod(x.shape[:-1])
                unbiased = variance * (values / max(values - 1, 1))
                for running, new in (
                    (running_mean, mean),
                    (running_variance, unbiased),
                ):
                    running.value = DECAY * running.value + (1 - DECAY) * new
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        return (x32 * factor + (bias - mean * factor)).astype(x.dtype)
