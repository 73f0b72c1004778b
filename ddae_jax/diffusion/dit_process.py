"""DiT's process: 1000 discrete steps, learned variance (ADM, arXiv 2105.05233).

The network's output has twice the image's channels: the noise estimate, then where the
variance lies between its two bounds ("Improved DDPM", arXiv 2102.09672, equation 15).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.ddpm import nearest_index, table_index
from ddae_jax.diffusion.process import per_example
from ddae_jax.diffusion.variational import (
    decoder_log_likelihood,
    gaussian_kl,
    posterior,
)
from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearnedVarianceDDPM:
    """DDPM whose network also predicts the variance; DiT's training and times.

    Times are the integers 0..timesteps - 1, held in float32, and the network receives
    them as they are: time t has gone through t + 1 noising steps.

    Attributes:
        timesteps: number of steps T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
    """

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        if self.timesteps < 2:
            raise UserError(f"timesteps is {self.timesteps}; it must be at least 2")
        if not 0 < self.beta_start < self.beta_end < 1:
            raise UserError(
                f"beta_start, beta_end are {self.beta_start}, {self.beta_end}; "
                "they must satisfy 0 < beta_start < beta_end < 1"
            )

    @functools.cached_property
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar of times 0..T - 1, float64 as in DiT's code, shape (T,)."""
        betas = np.linspace(self.beta_start, self.beta_end, self.timesteps)
        return np.cumprod(1 - betas)

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws times uniformly from 0..T - 1."""
        times = jax.random.randint(key, (count,), 0, self.timesteps)
        return times.astype(jnp.float32)

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(alpha-bar_t)."""
        return _look_up(np.sqrt(self.alpha_bars), time)

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(1 - alpha-bar_t)."""
        return _look_up(np.sqrt(1 - self.alpha_bars), time)

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sigma/alpha: about 0.01 at t = 0 and 157 at t = 999."""
        return self.sigma(time) / self.alpha(time)

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time whose noise level is nearest, in the logarithm."""
        levels = np.sqrt(1 / self.alpha_bars - 1).astype(np.float32)
        return nearest_index(levels, noise_level).astype(jnp.float32)

    def official_time(self, index: int | float) -> float:
        """Returns the published probe time: t itself, counted from 0.

        Raises:
            UserError: where `index` is not in 0..T - 1.
        """
        if not 0 <= index < self.timesteps or index != int(index):
            raise UserError(
                f"DiT time {index} is not an integer in 0..{self.timesteps - 1}"
            )
        return float(index)

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns alpha x0 + sigma noise."""
        alpha = per_example(self.alpha(time), x0)
        return alpha * x0 + per_example(self.sigma(time), x0) * noise

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns both as they are."""
        return x_t, time

    def x0(
        self,
        output: Float[Array, "batch ... channels_2"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ... channels"]:
        """Returns (x_t - sigma noise estimate) / alpha, not clipped."""
        noise = self.noise_estimate(output, x_t, time)
        sigma = per_example(self.sigma(time), x_t)
        return (x_t - sigma * noise) / per_example(self.alpha(time), x_t)

    def noise_estimate(
        self,
        output: Float[Array, "batch ... channels_2"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ... channels"]:
        """Returns the first half of the output's channels."""
        return output[..., : x_t.shape[-1]]

    def x0_and_variance(
        self,
        output: Float[Array, "batch ... channels_2"],
        x_t: Float[Array, "batch ... channels"],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ... channels_2"]:
        """Returns the x0 estimate, then the variance output: for `respaced`."""
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
        axes = tuple(range(1, x0.ndim))
        noise_estimate = self.noise_estimate(output, x_t, time)
        squared = jnp.mean((noise - noise_estimate) ** 2, axis=axes)
        bound = self._bound(output, x0, x_t, time) / np.log(2)
        return squared + self.timesteps / 1000 * jnp.mean(bound, axis=axes)

    def _bound(self, output, x0, x_t, time):
        """Nats of each element: the divergence from the posterior, or at time 0 the
        likelihood of the pixels."""
        tables = posterior(self.alpha_bars)
        row = {
            name: per_example(_look_up(table, time), x_t)
            for name, table in tables._asdict().items()
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


def _look_up(table: np.ndarray, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
    return jnp.asarray(table.astype(np.float32))[table_index(time)]
