"""The process of "Elucidating the Design Space" (Karras et al., arXiv 2206.00364)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.process import per_example
from ddae_jax.errors import UserError

PROBE_STEPS = 18
"""Length of the sampling schedule that DDAE's probe times index."""


@dataclasses.dataclass(frozen=True)
class EDM:
    """EDM: x_t = x0 + sigma noise, time is sigma, the network is preconditioned.

    Attributes:
        sigma_data: standard deviation of the data, pixels in [-1, 1].
        p_mean: mean of ln(sigma) in training.
        p_std: standard deviation of ln(sigma) in training.
        sigma_min: lowest sigma of the sampling schedule.
        sigma_max: highest sigma of the sampling schedule.
        rho: curvature of the sampling schedule.
        s_min: lowest sigma at which the sampler adds noise.
        s_max: highest sigma at which the sampler adds noise.
        s_noise: standard deviation of that noise.
    """

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    s_min: float = 0.01
    s_max: float = 1.0
    s_noise: float = 1.007

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"sigma_min, sigma_max are {self.sigma_min}, {self.sigma_max}; "
                "they must satisfy 0 < sigma_min < sigma_max"
            )
        for name in ("sigma_data", "p_std", "rho"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be positive")

    def schedule(self, steps: int) -> np.ndarray:
        """Returns the sampling sigmas (equation 5): falling, float64, (steps + 1,).

        The last one is 0, the one before sigma_min. The published code takes the
        roots of both ends in float32, hence 80.000018 where sigma_max is 80.

        Raises:
            UserError: for fewer than 2 steps.
        """
        if steps < 2:
            raise UserError(f"the EDM schedule needs at least 2 steps, not {steps}")
        ends = np.array([self.sigma_max, self.sigma_min], np.float32)
        first, last = ends ** (np.float32(1) / np.float32(self.rho))
        # The difference is float32 as well; only then does float64 begin.
        fractions = np.arange(steps, dtype=np.float64) / (steps - 1)
        roots = np.float64(first) + fractions * np.float64(last - first)
        return np.append(roots**self.rho, 0.0)

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws sigmas whose logarithm is N(p_mean, p_std^2)."""
        return jnp.exp(self.p_mean + self.p_std * jax.random.normal(key, (count,)))

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1."""
        return jnp.ones_like(time)

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time itself."""
        return time

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time itself."""
        return time

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the noise level itself."""
        return noise_level

    def official_time(self, index: int | float) -> float:
        """Returns sigma of the published probe time.

        `index` counts in the reversed 18-step schedule: 0 is the clean image (which
        the preconditioned network cannot take: ln 0), 1 is sigma_min, 4 is 0.05995,
        18 is sigma_max.

        Raises:
            UserError: where `index` is not in 0..18.
        """
        if not 0 <= index <= PROBE_STEPS or index != int(index):
            raise UserError(f"EDM time {index} is not an integer in 0..{PROBE_STEPS}")
        return float(self.schedule(PROBE_STEPS)[::-1][int(index)])

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns x0 + sigma noise."""
        return x0 + per_example(time, x0) * noise

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns c_in x_t and c_noise = ln(sigma) / 4 (table 1)."""
        c_in = 1 / jnp.sqrt(time**2 + self.sigma_data**2)
        return per_example(c_in, x_t) * x_t, jnp.log(time) / 4

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns c_skip x_t + c_out output (equation 7), not clipped."""
        variance = time**2 + self.sigma_data**2
        c_skip = per_example(self.sigma_data**2 / variance, x_t)
        c_out = per_example(time * self.sigma_data / jnp.sqrt(variance), x_t)
        return c_skip * x_t + c_out * output

    def noise_estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns (x_t - x0 estimate) / sigma."""
        return (x_t - self.x0(output, x_t, time)) / per_example(time, x_t)

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the weighted squared error of the x0 estimate (equation 2)."""
        variance = time**2 + self.sigma_data**2
        weight = variance / (time * self.sigma_data) ** 2
        error = (x0 - self.x0(output, x_t, time)) ** 2
        return weight * jnp.mean(error, axis=tuple(range(1, x0.ndim)))
