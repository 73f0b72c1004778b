"""EDM's stochastic second-order sampler (Karras et al., arXiv 2206.00364)."""

import dataclasses

import numpy as np

from ddae_jax.diffusion.edm import EDM
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
from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class EDMHeun(Sampler):
    """Heun's rule in sigma; adds noise where s_min <= sigma <= s_max (algorithm 2).

    `churn` is eta in DDAE's code: gamma = (sqrt 2 - 1) churn, the paper's S_churn /
    steps. DDAE's code clips x0 estimates, NVlabs' does not. The published state is
    float64, ours float32; 18 steps agree to 1e-6 all the same, since every step divides
    and multiplies by nearly the same sigma.
    """

    steps: int = setting(
        18, "sigmas; 2 steps - 1 network evaluations", least=2, most=100_000, test=4
    )
    churn: float = setting(
        0.0, "noise added before a step; 0: deterministic", least=0, most=1
    )
    clip: bool = setting(True, "clip x0 estimates to [-1, 1]; not for latents")

    def table(self, process: EDM) -> Table:
        """Returns the coefficients of the evaluations."""
        sigmas = process.schedule(self.steps)
        here, after = sigmas[:-1], sigmas[1:]
        churned = (process.s_min <= here) & (here <= process.s_max)
        raised = here * (1 + np.where(churned, (np.sqrt(2) - 1) * self.churn, 0))
        fresh = np.sqrt(raised**2 - here**2) * process.s_noise
        step, predicts = heun_evaluations(self.steps)
        return {
            "step": step,
            "predicts": predicts,
            "sigma": np.where(predicts, raised[step], after[step]).astype(np.float32),
            "length": (after - raised)[step].astype(np.float32),
            "fresh": np.where(predicts, fresh[step], 0).astype(np.float32),
        }

    def path(
        self, denoise: Denoise, process: EDM, noise: Images, step_noise: StepNoise
    ) -> tuple[Images, Estimates]:
        """Draws images; with churn, `step_noise` serves steps 0 to steps - 1."""

        def slope(x, now):
            x0 = estimate_x0(denoise, x, now["sigma"], self.clip)
            return (x - x0) / now["sigma"], x0

        def perturb(x, now):
            return x + now["fresh"] * step_noise(now["step"])

        return heun(
            slope,
            noise * np.float32(process.schedule(self.steps)[0]),
            self.table(process),
            perturb if self.churn > 0 else None,
        )
