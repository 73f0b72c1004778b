"""The contract of a sampler, and what samplers share: the denoiser's call, Heun's rule.

A sampler turns noise into images: it takes the denoiser down from the highest noise
level to none. Its coefficients are float32 tables, computed on the host; the loop over
them is one `lax.scan`.
"""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ddae_jax.diffusion.process import Process
from ddae_jax.settings import fields

Images = Float[Array, "batch ..."]
Estimates = Float[Array, "evaluations batch ..."]
Denoise = Callable[[Images, Float[Array, "batch"]], Images]
StepNoise = Callable[[Int[Array, ""]], Images]
Table = dict[str, np.ndarray]
"""Name of a coefficient -> its values, one per network evaluation."""


class Sampler(abc.ABC):
    """A way from noise to x0: a frozen dataclass of this class, so it can be static.

    Its fields are declared with `settings.fields.setting`.
    """

    def __post_init__(self):
        fields.check_all(type(self).__name__, self)

    @abc.abstractmethod
    def table(self, process: Process) -> Table:
        """Returns the coefficients, in the order of the network evaluations.

        Raises:
          UserError: the settings do not fit the process.
        """

    @abc.abstractmethod
    def path(
        self,
        denoise: Denoise,
        process: Process,
        noise: Images,
        step_noise: StepNoise,
    ) -> tuple[Images, Estimates]:
        """Draws images, as `__call__`; returns also what each evaluation estimated."""

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        noise: Images,
        step_noise: StepNoise,
    ) -> Images:
        """Draws images. Call it inside `jax.jit`: outside, every call compiles anew.

        Args:
          denoise: (x_t, time) -> `process.estimate` of the network's output there.
          process: of the network.
          noise: standard normal, of the images' shape.
          step_noise: loop step 0, 1, ..., traced -> more of it; a deterministic sampler
            does not call it.

        Returns:
          x0, about in [-1, 1]; clipped only through the x0 estimates.
        """
        # The compiler leaves the estimates out of the loop: nobody asks for them.
        return self.path(denoise, process, noise, step_noise)[0]

    def check(self, process: Process) -> None:
        """Raises a UserError where the settings do not fit the process."""
        self.table(process)


def estimate_x0(
    denoise: Denoise, x_t: Images, time: Float[Array, ""], clip: bool
) -> Images:
    """Calls the denoiser with one time for the whole batch; clips to [-1, 1]."""
    x0 = denoise(x_t, jnp.full(x_t.shape[:1], time))
    return jnp.clip(x0, -1, 1) if clip else x0


def heun_evaluations(
    steps: int,
) -> tuple[Int[np.ndarray, "evaluations"], Bool[np.ndarray, "evaluations"]]:
    """Returns the step of each network evaluation, and whether it predicts.

    Every step predicts and then corrects but the last, which ends at noise level 0,
    where no slope is known: 2 steps - 1 evaluations.
    """
    evaluations = np.arange(2 * steps - 1)
    return evaluations // 2, evaluations % 2 == 0


def heun(
    slope: Callable[[Images, dict[str, Float[Array, ""]]], tuple[Images, Images]],
    start: Images,
    table: Table,
    perturb: Callable[[Images, dict[str, Float[Array, ""]]], Images] | None = None,
) -> tuple[Images, Estimates]:
    """Follows a differential equation by Heun's rule, one evaluation per iteration.

    So the network is compiled once, and no evaluation is wasted.

    Args:
      slope: (x, row of `table`) -> dx/dt, and the x0 estimate that it comes from.
      start: x before the first step.
      table: at least "predicts", from `heun_evaluations`, and "length", of the step in
        time.
      perturb: (x, row) -> x, before the slope is taken.
    """

    def body(carry, row):
        x, step_start, first = carry
        if perturb is not None:
            x = perturb(x, row)
        here, x0 = slope(x, row)
        step_start = jnp.where(row["predicts"], x, step_start)
        mean = jnp.where(row["predicts"], here, (first + here) / 2)
        return (step_start + row["length"] * mean, step_start, here), x0

    carry = (start, start, jnp.zeros_like(start))
    (x, _, _), estimates = jax.lax.scan(body, carry, table)
    return x, estimates
