"""Samplers of DDPM: every step with noise, or fewer and deterministic (DDIM)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.sampler import (
    Denoise,
    Estimates,
    Images,
    Sampler,
    StepNoise,
    Table,
    estimate_x0,
)
from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class DDPMAncestral(Sampler):
    """All T steps, with variance beta_t (DDPM, algorithm 2); the last adds no noise."""

    clip: bool = setting(True, "clip x0 estimates to [-1, 1]")

    def table(self, process: DDPM) -> Table:
        """Returns the coefficients of t = T..1."""
        times = np.arange(process.timesteps, 0, -1)
        tables = process.tables
        return {
            "step": np.arange(process.timesteps),
            "time": times.astype(np.float32),
            "alpha": np.sqrt(tables.alpha_bar[times]),
            "sigma": np.sqrt(1 - tables.alpha_bar[times]),
            "noise_part": tables.noise_part[times],
            "growth": tables.growth[times],
            "fresh": np.where(times > 1, np.sqrt(tables.beta[times]), np.float32(0)),
        }

    def path(
        self, denoise: Denoise, process: DDPM, noise: Images, step_noise: StepNoise
    ) -> tuple[Images, Estimates]:
        """Draws images from x_T; `step_noise` serves steps 0 (t = T) to T - 2."""

        def body(x, now):
            x0 = estimate_x0(denoise, x, now["time"], self.clip)
            noise_estimate = (x - now["alpha"] * x0) / now["sigma"]
            mean = now["growth"] * (x - now["noise_part"] * noise_estimate)
            return mean + now["fresh"] * step_noise(now["step"]), x0

        return jax.lax.scan(body, noise, self.table(process))


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (arXiv 2010.02502, equations 12 and 16), as DDAE's code has it.

    The times are 1, 1 + T/steps, ... from above, then index 0. The levels between
    which x moves come from `process.ddim_tables`, which differ slightly from those of
    training, so the x0 estimate is first turned back into the noise that the network
    saw.
    """

    steps: int = setting(
        100, "network evaluations; they divide T", least=1, most=100_000, test=4
    )
    eta: float = setting(
        0.0, "0: deterministic, 1: noise about as ancestral", least=0, most=1
    )
    clip: bool = setting(True, "clip x0 estimates to [-1, 1]")

    def table(self, process: DDPM) -> Table:
        """Returns the coefficients of the chosen times, from above.

        Raises:
          UserError: `steps` does not divide T.
        """
        if process.timesteps % self.steps:
            raise UserError(
                f"steps: {self.steps} do not divide the process's {process.timesteps}"
            )
        stride = process.timesteps // self.steps
        times = np.arange(1, process.timesteps + 1, stride)[::-1]
        here = process.ddim_tables.alpha_bar[times]
        after = process.ddim_tables.alpha_bar[np.append(times[1:], 0)]
        fresh = np.sqrt((1 - here / after) * (1 - after) / (1 - here))
        fresh = np.float32(self.eta) * fresh
        training = process.tables.alpha_bar[times]
        step = np.arange(self.steps)
        return {
            "step": step,
            "time": times.astype(np.float32),
            "training_alpha": np.sqrt(training),
            "training_sigma": np.sqrt(1 - training),
            "alpha": np.sqrt(here),
            "sigma": np.sqrt(1 - here),
            "next_alpha": np.sqrt(after),
            # The last step adds no noise, yet its direction is shortened as if it did.
            "next_sigma": np.sqrt(np.maximum(1 - after - fresh**2, 0)),
            "fresh": np.where(step < self.steps - 1, fresh, np.float32(0)),
        }

    def path(
        self, denoise: Denoise, process: DDPM, noise: Images, step_noise: StepNoise
    ) -> tuple[Images, Estimates]:
        """Draws images; with eta, `step_noise` serves all steps but the last."""

        def body(x, now):
            x0 = estimate_x0(denoise, x, now["time"], clip=False)
            output = (x - now["training_alpha"] * x0) / now["training_sigma"]
            x0 = (x - now["sigma"] * output) / now["alpha"]
            if self.clip:
                x0 = jnp.clip(x0, -1, 1)
            noise_estimate = (x - now["alpha"] * x0) / now["sigma"]
            x = now["next_alpha"] * x0 + now["next_sigma"] * noise_estimate
            if self.eta > 0:
                x = x + now["fresh"] * step_noise(now["step"])
            return x, x0

        return jax.lax.scan(body, noise, self.table(process))
