"""The variance-preserving process in discrete steps (Ho et al., arXiv 2006.11239)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.diffusion.process import per_example
from ddae_jax.errors import UserError


def linear_betas(beta_start: float, beta_end: float, count: int) -> np.ndarray:
    """Returns `count` float32 betas, evenly spaced, both ends included."""
    return np.linspace(beta_start, beta_end, count).astype(np.float32)


def cumulative_alphas(betas: np.ndarray) -> np.ndarray:
    """Returns alpha-bar, the running product of 1 - beta, float32.

    The published tables are float32 throughout: 1 - beta is rounded before the
    logarithm. At t = 1 that moves sigma by 1e-4 relative, so it is done here too.
    """
    logarithms = np.log(np.float32(1) - betas)
    sums = np.cumsum(logarithms, dtype=np.float64).astype(np.float32)
    return np.exp(sums)


def table_index(time: Float[Array, "batch"]) -> Int[Array, "batch"]:
    """Returns the table indices of integer times held in floating point."""
    return jnp.round(time).astype(jnp.int32)


def nearest_index(
    levels: np.ndarray, noise_level: Float[Array, "batch"]
) -> Int[Array, "batch"]:
    """Returns where in the rising `levels` the logarithm is nearest."""
    # The geometric mean of two neighbours separates what is nearer to which.
    bounds = np.sqrt(levels[1:] * levels[:-1])
    return jnp.searchsorted(jnp.asarray(bounds), noise_level)


@dataclasses.dataclass(frozen=True)
class DDPM:
    """DDPM with linear betas; the network predicts the noise.

    Times are the integers 1..timesteps, held in float32. Index 0 of every table is
    the clean image. The network receives t / timesteps, as in DDAE's code; the
    original DDPM feeds t.

    Attributes:
        timesteps: number of steps T.
        beta_start: variance of the first step.
        beta_end: variance of the last step.
    """

    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        if self.timesteps < 1:
            raise UserError(f"timesteps is {self.timesteps}; it must be at least 1")
        if not 0 < self.beta_start < self.beta_end < 1:
            raise UserError(
                f"beta_start, beta_end are {self.beta_start}, {self.beta_end}; "
                "they must satisfy 0 < beta_start < beta_end < 1"
            )

    @functools.cached_property
    def betas(self) -> np.ndarray:
        """beta_t for t = 0..T, with beta_0 = 0; float32, shape (T + 1,)."""
        steps = linear_betas(self.beta_start, self.beta_end, self.timesteps)
        return np.concatenate([np.zeros(1, np.float32), steps])

    @functools.cached_property
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar of training, features and ancestral sampling; shape (T + 1,)."""
        return cumulative_alphas(self.betas)

    @functools.cached_property
    def ddim_alpha_bars(self) -> np.ndarray:
        """alpha-bar of the official DDIM sampler; shape (T + 1,).

        It comes from T + 1 betas without the leading 0, so index 0 is not quite
        clean and all other levels differ slightly from those of training.
        """
        return cumulative_alphas(
            linear_betas(self.beta_start, self.beta_end, self.timesteps + 1)
        )

    @functools.cached_property
    def _alphas(self) -> np.ndarray:
        return np.sqrt(self.alpha_bars)

    @functools.cached_property
    def _sigmas(self) -> np.ndarray:
        return np.sqrt(1 - self.alpha_bars)

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws times uniformly from 1..T."""
        times = jax.random.randint(key, (count,), 1, self.timesteps + 1)
        return times.astype(jnp.float32)

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(alpha-bar_t)."""
        return jnp.asarray(self._alphas)[table_index(time)]

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(1 - alpha-bar_t)."""
        return jnp.asarray(self._sigmas)[table_index(time)]

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sigma/alpha: about 0.01 at t = 1 and 158 at t = 1000."""
        return self.sigma(time) / self.alpha(time)

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time in 1..T whose noise level is nearest, in the logarithm."""
        levels = self._sigmas[1:] / self._alphas[1:]
        return 1.0 + nearest_index(levels, noise_level).astype(jnp.float32)

    def official_time(self, index: int | float) -> float:
        """Returns the published probe time, which is t itself.

        Raises:
            UserError: where `index` is not in 1..T.
        """
        if not 1 <= index <= self.timesteps or index != int(index):
            raise UserError(
                f"DDPM time {index} is not an integer in 1..{self.timesteps}"
            )
        return float(index)

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns x_t (equation 4)."""
        alpha = per_example(self.alpha(time), x0)
        return alpha * x0 + per_example(self.sigma(time), x0) * noise

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns x_t as it is, and t / T."""
        return x_t, time / self.timesteps

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns (x_t - sigma output) / alpha, not clipped."""
        sigma = per_example(self.sigma(time), x_t)
        return (x_t - sigma * output) / per_example(self.alpha(time), x_t)

    def noise_estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the output itself."""
        return output

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the simple loss (equation 14): the mean squared noise error."""
        return jnp.mean((noise - output) ** 2, axis=tuple(range(1, x0.ndim)))
