"""The posterior q(x_before | x_t, x0) and the terms of the variational bound."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Posterior(NamedTuple):
    """Gaussian q(x_before | x_t, x0) at every time; tables of shape (T,), float64.

    Its mean is from_x0 x0 + from_x_t x_t (DDPM, equation 7). A learned variance lies
    between exp(log_low), the posterior's own, and exp(log_high), beta.
    """

    from_x0: np.ndarray
    from_x_t: np.ndarray
    log_low: np.ndarray
    log_high: np.ndarray


def posterior(alpha_bars: np.ndarray) -> Posterior:
    """Returns the tables of a process whose times, in order, have these alpha-bars.

    The posterior's variance is 0 at the first time, so its logarithm is taken from the
    second there.
    """
    before = np.append(1.0, alpha_bars[:-1])
    betas = 1 - alpha_bars / before
    variance = betas * (1 - before) / (1 - alpha_bars)
    return Posterior(
        from_x0=np.sqrt(before) * betas / (1 - alpha_bars),
        from_x_t=np.sqrt(1 - betas) * (1 - before) / (1 - alpha_bars),
        log_low=np.log(np.append(variance[1], variance[1:])),
        log_high=np.log(betas),
    )


def gaussian_kl(
    mean: Float[Array, "..."],
    log_variance: Float[Array, "..."],
    other_mean: Float[Array, "..."],
    other_log_variance: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Returns the divergence of N(mean, ...) from N(other_mean, ...), in nats."""
    difference = log_variance - other_log_variance
    squared = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return (jnp.exp(difference) + squared - 1 - difference) / 2


def decoder_log_likelihood(
    x0: Float[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns log p(pixel) under a Gaussian cut into 256 bins (DDPM, equation 13).

    Bins are 2/255 wide around x0 and open-ended beyond +-0.999. As in the published
    code, the normal's distribution function is Page's approximation by tanh, and
    probabilities below 1e-12 count as that.
    """
    centred = x0 - mean
    above = _normal_cdf((centred + 1 / 255) * jnp.exp(-log_scale))
    below = _normal_cdf((centred - 1 / 255) * jnp.exp(-log_scale))
    inner = jnp.where(x0 > 0.999, 1 - below, above - below)
    return jnp.log(jnp.maximum(jnp.where(x0 < -0.999, above, inner), 1e-12))


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
