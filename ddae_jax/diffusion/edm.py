"""The process of "Elucidating the Design Space" (Karras et al., arXiv 2206.00364)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.process import Process, mean_per_example, per_example
from ddae_jax.diffusion.schedules import rho_sigmas
from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting

PROBE_STEPS = 18
"""Length of the sampling schedule that DDAE's probe times index."""


@dataclasses.dataclass(frozen=True)
class EDM(Process):
    """EDM: x_t = x0 + sigma noise, time is sigma, the network is preconditioned."""

    sigma_data: float = setting(
        0.5, "standard deviation of the data, pixels in [-1, 1]", least=1e-3, most=1000
    )
    p_mean: float = setting(-1.2, "mean of ln(sigma) in training", least=-10, most=10)
    p_std: float = setting(
        1.2, "standard deviation of ln(sigma) in training", above=0, most=5
    )
    sigma_min: float = setting(
        0.002, "lowest sigma of sampling, below sigma_max", least=1e-6, most=1e6
    )
    sigma_max: float = setting(80.0, "highest sigma of sampling", least=1e-6, most=1e6)
    rho: float = setting(
        7.0, "curvature of the sampling schedule; 1: even steps", least=1, most=100
    )
    s_min: float = setting(
        0.01, "lowest sigma at which the sampler adds noise", least=0, most=math.inf
    )
    s_max: float = setting(
        1.0, "highest sigma at which the sampler adds noise", least=0, most=math.inf
    )
    s_noise: float = setting(
        1.007, "standard deviation of that noise", least=0, most=10
    )

    def __post_init__(self):
        super().__post_init__()
        for low, high in (("sigma_min", "sigma_max"), ("s_min", "s_max")):
            lower, higher = getattr(self, low), getattr(self, high)
            if not lower < higher:
                raise UserError(f"{low}: {lower} is not below {high} {higher}")

    def schedule(self, steps: int) -> np.ndarray:
        """Returns the sampling sigmas, falling to 0: float64, shape (steps + 1,).

        Raises:
          UserError: fewer than 2 steps.
        """
        return rho_sigmas(self.sigma_min, self.sigma_max, self.rho, steps)

    def _probe_sigmas(self) -> np.ndarray:
        """Sigmas by the published probe index: 0, then sigma_min to sigma_max."""
        return self.schedule(PROBE_STEPS)[::-1]

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1."""
        return jnp.ones_like(time)

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time itself."""
        return time

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the noise level itself."""
        return noise_level

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws sigmas whose logarithm is N(p_mean, p_std^2)."""
        return jnp.exp(self.p_mean + self.p_std * jax.random.normal(key, (count,)))

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
        return weight * mean_per_example((x0 - self.x0(output, x_t, time)) ** 2)

    def official_time(self, index: int | float) -> float:
        """Returns sigma of the published probe time.

        `index` counts in the reversed 18-step schedule: 0 is the clean image (which
        the preconditioned network cannot take: ln 0), 1 is sigma_min, 4 is 0.05995,
        18 is sigma_max.

        Raises:
          UserError: `index` is not in 0..18.
        """
        if not 0 <= index <= PROBE_STEPS or index != int(index):
            raise UserError(f"time {index} is not a whole number in 0..{PROBE_STEPS}")
        return float(self._probe_sigmas()[int(index)])

    @property
    def probe_times(self) -> tuple[int | float, ...]:
        """Sigmas .0229, .0600, .1395."""
        return (3, 4, 5)

    @property
    def test_times(self) -> tuple[int | float, ...]:
        """All sigmas of the published schedule: 1..18."""
        return tuple(range(1, PROBE_STEPS + 1))

    def head_training_times(
        self, key: PRNGKeyArray, count: int
    ) -> Float[Array, "count"]:
        """Draws uniformly from the 18 sigmas of the published schedule."""
        index = jax.random.randint(key, (count,), 1, PROBE_STEPS + 1)
        return jnp.asarray(self._probe_sigmas().astype(np.float32))[index]

    def head_condition(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the place in that schedule, 1 at sigma_min and 18 at sigma_max."""
        low, high, root = (
            sigma ** (1 / self.rho) for sigma in (self.sigma_min, self.sigma_max, time)
        )
        return 1 + (PROBE_STEPS - 1) * (root - low) / (high - low)

    def classifier_condition(
        self, time: Float[Array, "batch"]
    ) -> Float[Array, "batch"]:
        """Returns ln(sigma)."""
        return jnp.log(time)
