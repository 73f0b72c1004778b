"""DiT's process: 1000 discrete steps, learned variance (ADM, arXiv 2105.05233).

The network's output has twice the image's channels: the predicted noise, then where the
variance lies between its two bounds ("Improved DDPM", arXiv 2102.09672, equation 15).
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddae_jax.diffusion.discrete import DiscreteProcess, look_up
from ddae_jax.diffusion.process import mean_per_example, per_example
from ddae_jax.diffusion.schedules import linear_betas
from ddae_jax.diffusion.variational import (
    decoder_log_likelihood,
    gaussian_kl,
    posterior,
)


@dataclasses.dataclass(frozen=True)
class LearnedVarianceDDPM(DiscreteProcess):
    """DDPM whose network also predicts the variance; DiT's training and times.

    Times are 0..T - 1, and the network receives them as they are: time t has gone
    through t + 1 noising steps.
    """

    learned_variance: ClassVar[bool] = True
    first_time: ClassVar[int] = 0

    @functools.cached_property
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar of times 0..T - 1, float64 as in DiT's code, shape (T,)."""
        betas = linear_betas(self.beta_start, self.beta_end, self.timesteps)
        return np.cumprod(1 - betas)

    @property
    def probe_times(self) -> tuple[int | float, ...]:
        """Those of Tiny-ImageNet and of CIFAR-10 (arXiv 2303.09769)."""
        return self.published(81, 121)

    def predicted_noise(
        self,
        output: Float[Array, "batch ... channels_2"],
        x_t: Float[Array, "batch ... channels"],
    ) -> Float[Array, "batch ... channels"]:
        """Returns the first half of the output's channels."""
        return output[..., : x_t.shape[-1]]

    def estimate(
        self,
        output: Float[Array, "batch ... channels_2"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ... channels_2"]:
        """Returns the x0 estimate, then the variance output."""
        variance = output[..., x_t.shape[-1] :]
        return jnp.concatenate([self.x0(output, x_t, time), variance], axis=-1)

    def loss(
        self,
        output: Float[Array, "batch ... channels_2"],
        x0: Float[Array, "batch ... channels"],
        noise: Float[Array, "batch ... channels"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the hybrid loss (arXiv 2102.09672, equation 16).

        The squared noise error plus T/1000 of the variational bound at this time, in
        bits; the bound trains the variance only. DiT's code has T = 1000.
        """
        squared = mean_per_example((noise - self.predicted_noise(output, x_t)) ** 2)
        bits = mean_per_example(self._bound(output, x0, x_t, time)) / np.log(2)
        return squared + self.timesteps / 1000 * bits

    def _bound(
        self,
        output: Float[Array, "batch ... channels_2"],
        x0: Float[Array, "batch ... channels"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ... channels"]:
        """Nats per element: the divergence from the posterior, or at time 0 the
        negative log-likelihood of the pixels."""
        row = {
            name: per_example(look_up(table, time), x_t)
            for name, table in posterior(self.alpha_bars)._asdict().items()
        }
        estimate = self.x0(jax.lax.stop_gradient(output), x_t, time)
        mean = row["from_x0"] * estimate + row["from_x_t"] * x_t
        true_mean = row["from_x0"] * x0 + row["from_x_t"] * x_t
        upper = (output[..., x_t.shape[-1] :] + 1) / 2
        log_variance = row["log_low"] + upper * (row["log_high"] - row["log_low"])
        divergence = gaussian_kl(true_mean, row["log_low"], mean, log_variance)
        likelihood = decoder_log_likelihood(x0, mean, log_variance / 2)
        first = per_example(time, x_t) < 0.5
        return jnp.where(first, -likelihood, divergence)
