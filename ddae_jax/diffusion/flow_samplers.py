"""Samplers of the linear path: its ordinary differential equation, in one loop each.

The velocity follows from the x0 estimate, (x0 - x_t) / (1 - t). Latents are unbounded,
so x0 estimates are not clipped unless asked. Both samplers are deterministic.

`steps` counts the times, both ends included, as `num_steps` of SiT's and LightningDiT's
code does: 250 are 249 intervals.
"""

import dataclasses

import jax
import numpy as np

from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.sampler import (
    Denoise,
    Estimates,
    Images,
    Sampler,
    StepNoise,
    Table,
    estimate_x0,
    heun,
    heun_evaluations,
)
from ddae_jax.diffusion.schedules import flow_times
from ddae_jax.settings.fields import setting

_SHIFT_HELP = "of the even times; below 1 they crowd at the noise"
_CLIP_HELP = "clip x0 estimates to [-1, 1]; not for latents"


@dataclasses.dataclass(frozen=True)
class FlowEuler(Sampler):
    """Euler's rule; the defaults are LightningDiT's (arXiv 2501.01423)."""

    steps: int = setting(
        250,
        "times with both ends: 250 are 249 evaluations",
        least=2,
        most=100_000,
        test=5,
    )
    shift: float = setting(0.3, _SHIFT_HELP, least=1e-3, most=1000)
    clip: bool = setting(False, _CLIP_HELP)

    def table(self, process: Flow) -> Table:
        """Returns the time of each evaluation, and how far towards x0 it goes."""
        times = flow_times(self.steps, self.shift)
        here, after = times[:-1], times[1:]
        return {
            "time": here.astype(np.float32),
            "fraction": ((after - here) / (1 - here)).astype(np.float32),
        }

    def path(
        self, denoise: Denoise, process: Flow, noise: Images, step_noise: StepNoise
    ) -> tuple[Images, Estimates]:
        """Draws images from x at t = 0."""

        def body(x, now):
            x0 = estimate_x0(denoise, x, now["time"], self.clip)
            return x + now["fraction"] * (x0 - x), x0

        return jax.lax.scan(body, noise, self.table(process))


@dataclasses.dataclass(frozen=True)
class FlowHeun(Sampler):
    """Heun's rule.

    The last interval is Euler's, as in EDM: at t = 1 there is no noise from which an x0
    estimate could tell the velocity.
    """

    steps: int = setting(
        50, "times with both ends: 50 are 97 evaluations", least=2, most=100_000, test=5
    )
    shift: float = setting(0.3, _SHIFT_HELP, least=1e-3, most=1000)
    clip: bool = setting(False, _CLIP_HELP)

    def table(self, process: Flow) -> Table:
        """Returns the coefficients of the evaluations."""
        times = flow_times(self.steps, self.shift)
        step, predicts = heun_evaluations(self.steps - 1)
        time = np.where(predicts, times[step], times[step + 1])
        return {
            "predicts": predicts,
            "time": time.astype(np.float32),
            "rate": (1 / (1 - time)).astype(np.float32),
            "length": np.diff(times)[step].astype(np.float32),
        }

    def path(
        self, denoise: Denoise, process: Flow, noise: Images, step_noise: StepNoise
    ) -> tuple[Images, Estimates]:
        """Draws images from x at t = 0."""

        def velocity(x, now):
            x0 = estimate_x0(denoise, x, now["time"], self.clip)
            return (x0 - x) * now["rate"], x0

        return heun(velocity, noise, self.table(process))
