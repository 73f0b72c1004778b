"""Tables of noise schedules, computed on the host: betas, EDM's rho, a flow's shift."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError


class StepTables(NamedTuple):
    """What published DDPM code tabulates of its steps: float32, shape (steps,) each.

    Attributes:
      beta: variance that a step adds.
      alpha: 1 - beta, rounded to float32 before anything else is made of it.
      alpha_bar: running product of alpha.
    """

    beta: np.ndarray
    alpha: np.ndarray
    alpha_bar: np.ndarray

    @property
    def growth(self) -> np.ndarray:
        """1 / sqrt(alpha)."""
        return 1 / np.sqrt(self.alpha)

    @property
    def noise_part(self) -> np.ndarray:
        """(1 - alpha) / sqrt(1 - alpha_bar); not a number at a step without noise."""
        with np.errstate(invalid="ignore"):
            return (1 - self.alpha) / np.sqrt(1 - self.alpha_bar)


def step_tables(betas: np.ndarray) -> StepTables:
    """Returns the tables of float32 `betas`, in float32 as published.

    The rounding of 1 - beta moves sigma of the first step by 1e-4 relative.
    """
    alpha = np.float32(1) - betas
    sums = np.cumsum(np.log(alpha), dtype=np.float64).astype(np.float32)
    return StepTables(betas, alpha, np.exp(sums))


def linear_betas(beta_start: float, beta_end: float, count: int) -> np.ndarray:
    """Returns `count` float64 betas, evenly spaced, both ends included."""
    return np.linspace(beta_start, beta_end, count)


def respaced_times(timesteps: int, steps: int) -> Int[np.ndarray, "steps"]:
    """Returns `steps` of the times 0..timesteps - 1: rising, both ends included.

    Raises:
      UserError: `steps` is not in 2..timesteps.
    """
    if not 2 <= steps <= timesteps:
        raise UserError(f"steps: {steps} is not in 2..{timesteps}")
    stride = (timesteps - 1) / (steps - 1)
    # Summed, not multiplied: the published code's rounding errors decide ties.
    return np.round(np.cumsum([0.0] + [stride] * (steps - 1))).astype(int)


def rho_sigmas(
    sigma_min: float, sigma_max: float, rho: float, steps: int
) -> Float[np.ndarray, "steps_and_0"]:
    """Returns EDM's sampling sigmas (arXiv 2206.00364, equation 5).

    They fall, float64; the last one is 0, the one before it sigma_min. The published
    code takes the roots of both ends in float32, hence 80.000018 where sigma_max is 80.

    Raises:
      UserError: fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"steps: {steps}, but the EDM schedule needs at least 2")
    ends = np.array([sigma_max, sigma_min], np.float32)
    first, last = ends ** (np.float32(1) / np.float32(rho))
    # The difference is float32 as well; only then does float64 begin.
    fractions = np.arange(steps, dtype=np.float64) / (steps - 1)
    roots = np.float64(first) + fractions * np.float64(last - first)
    return np.append(roots**rho, 0.0)


def shift_time(
    time: Float[Array | np.ndarray, "..."], shift: float
) -> Float[Array | np.ndarray, "..."]:
    """Returns s t / (1 + (s - 1) t) (SD3, arXiv 2403.03206, section 5.3.2).

    With t = 0 for noise, s < 1 moves times towards the noise; 1 leaves them.
    """
    return shift * time / (1 + (shift - 1) * time)


def flow_times(steps: int, shift: float) -> Float[np.ndarray, "steps"]:
    """Returns `steps` shifted times from 0 (noise) to 1 (data), both included, float64.

    Raises:
      UserError: fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"steps: {steps}, but a flow needs at least 2 times: 0 and 1")
    times = shift_time(np.linspace(0, 1, steps), shift)
    times[-1] = 1  # else rounding may stop short of it
    return times
