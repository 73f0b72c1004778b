"""Ancestral sampling with learned variance on a subset of the times (ADM, DiT)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.diffusion.learned_variance import LearnedVarianceDDPM
from ddae_jax.diffusion.sampler import (
    Denoise,
    Estimates,
    Images,
    Sampler,
    StepNoise,
    Table,
    estimate_x0,
)
from ddae_jax.diffusion.schedules import respaced_times
from ddae_jax.diffusion.variational import posterior
from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class Respaced(Sampler):
    """Sampling as in arXiv 2102.09672, section 4; 250 steps are DiT's default.

    The chosen times form a shorter process of their own, whose betas follow from the
    alpha-bars; the learned variance lies between that process's bounds. The last step
    adds no noise.
    """

    steps: int = setting(250, "network evaluations", least=2, most=100_000, test=4)
    clip: bool = setting(False, "clip x0 estimates to [-1, 1]; not for latents")

    def table(self, process: LearnedVarianceDDPM) -> Table:
        """Returns the coefficients of the chosen times, from above.

        Raises:
          UserError: more steps than the process has times.
        """
        times = respaced_times(process.timesteps, self.steps)
        rising = posterior(process.alpha_bars[times])._asdict()
        step = np.arange(self.steps)
        return {
            **{name: row[::-1].astype(np.float32) for name, row in rising.items()},
            "step": step,
            "time": times[::-1].astype(np.float32),
            "noisy": (step < self.steps - 1).astype(np.float32),
        }

    def path(
        self,
        denoise: Denoise,
        process: LearnedVarianceDDPM,
        noise: Images,
        step_noise: StepNoise,
    ) -> tuple[Images, Estimates]:
        """Draws images; `denoise` gives twice their channels: x0, then the variance."""

        def body(x, now):
            both = estimate_x0(denoise, x, now["time"], clip=False)
            x0, variance = jnp.split(both, 2, axis=-1)
            if self.clip:
                x0 = jnp.clip(x0, -1, 1)
            upper = (variance + 1) / 2
            log_variance = now["log_low"] + upper * (now["log_high"] - now["log_low"])
            mean = now["from_x0"] * x0 + now["from_x_t"] * x
            fresh = now["noisy"] * jnp.exp(log_variance / 2) * step_noise(now["step"])
            return mean + fresh, x0

        return jax.lax.scan(body, noise, self.table(process))
