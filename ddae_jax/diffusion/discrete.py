"""What the processes of T discrete steps share: linear betas, tables, times."""

import abc
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.process import Process, per_example
from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting

TEST_POINTS = 20
"""Number of times at which classifiers of noisy images are tested."""


def look_up(table: np.ndarray, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns the entries of `table`, in float32, at integer times held as floats."""
    index = jnp.round(time).astype(jnp.int32)
    return jnp.asarray(table.astype(np.float32))[index]


@dataclasses.dataclass(frozen=True)
class DiscreteProcess(Process):
    """T noising steps with linear betas; the network predicts the noise.

    Times are integers, held in float32: first_time to first_time + T - 1.
    """

    first_time: ClassVar[int]
    """The published code's lowest time."""

    timesteps: int = setting(1000, "number of steps T", least=2, most=100_000)
    # A beta below float32's resolution at 1 would add no noise.
    beta_start: float = setting(
        1e-4, "variance of the first step, below beta_end", least=1e-7, below=1
    )
    beta_end: float = setting(0.02, "variance of the last step", least=1e-7, below=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.beta_start < self.beta_end:
            raise UserError(
                f"beta_start: {self.beta_start} is not below beta_end {self.beta_end}"
            )
        if self.alpha_bars[-1] < np.finfo(np.float32).tiny:
            raise UserError(
                f"beta_end: {self.timesteps} steps with betas of {self.beta_start} to "
                f"{self.beta_end} leave nothing of the image before they end"
            )

    @property
    @abc.abstractmethod
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar by time, to the last; shape (first_time + T,)."""

    @functools.cached_property
    def _alphas(self) -> np.ndarray:
        return np.sqrt(self.alpha_bars)

    @functools.cached_property
    def _sigmas(self) -> np.ndarray:
        return np.sqrt(1 - self.alpha_bars)

    @functools.cached_property
    def _bounds(self) -> np.ndarray:
        """Noise levels between those of neighbouring times: the geometric means."""
        levels = (self._sigmas / self._alphas)[self.first_time :]
        return np.sqrt(levels[1:] * levels[:-1]).astype(np.float32)

    @property
    def last_time(self) -> int:
        """The highest time."""
        return self.first_time + self.timesteps - 1

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(alpha-bar_t)."""
        return look_up(self._alphas, time)

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sqrt(1 - alpha-bar_t)."""
        return look_up(self._sigmas, time)

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time whose noise level is nearest, in the logarithm."""
        index = jnp.searchsorted(jnp.asarray(self._bounds), noise_level)
        return self.first_time + index.astype(jnp.float32)

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws times uniformly from all."""
        times = jax.random.randint(key, (count,), self.first_time, self.last_time + 1)
        return times.astype(jnp.float32)

    def predicted_noise(
        self, output: Float[Array, "batch ..."], x_t: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """Returns the part of the output that predicts the noise: all of it."""
        return output

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns (x_t - sigma predicted noise) / alpha, not clipped."""
        noise = self.predicted_noise(output, x_t)
        sigma, alpha = (per_example(f(time), x_t) for f in (self.sigma, self.alpha))
        return (x_t - sigma * noise) / alpha

    def official_time(self, index: int | float) -> float:
        """Returns the published probe time, which is t itself.

        Raises:
          UserError: `index` is none of the times.
        """
        if not self.first_time <= index <= self.last_time or index != int(index):
            raise UserError(
                f"time {index} is not a whole number in {self.first_time}.."
                f"{self.last_time}"
            )
        return float(index)

    @property
    def test_times(self) -> tuple[int | float, ...]:
        """20 times, evenly spaced from the first: 1, 51, ..., 951 under DDPM."""
        step = max(self.timesteps // TEST_POINTS, 1)
        return tuple(range(self.first_time, self.last_time + 1, step))

    def classifier_condition(
        self, time: Float[Array, "batch"]
    ) -> Float[Array, "batch"]:
        """Returns t / T."""
        return time / self.timesteps

    def published(self, *times: int) -> tuple[int, ...]:
        """Returns those of `times` that a shorter process has; its last if none."""
        return tuple(t for t in times if t <= self.last_time) or (self.last_time,)
