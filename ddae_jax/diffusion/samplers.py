"""Samplers of the DDPM and EDM processes, one compiled loop each.

Coefficients are computed on the host and the state is float32. The published EDM
sampler keeps the state in float64; its 18-step golden samples are met to 1e-6 all the
same, since every step divides and multiplies by nearly the same sigma.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.sampling import Denoise, Images, StepNoise, estimate_x0
from ddae_jax.errors import UserError


def ddpm_ancestral(
    denoise: Denoise,
    process: DDPM,
    noise: Images,
    step_noise: StepNoise,
    clip: bool = True,
) -> Images:
    """Samples through all T steps with variance beta_t (DDPM, algorithm 2).

    Args:
        denoise: x0 estimate of (x_t, t), t in T..1.
        process: gives T and the betas.
        noise: x_T.
        step_noise: noise of step 0 (t = T) to T - 2 (t = 2); t = 1 adds none.
        clip: whether to clip x0 estimates to [-1, 1].
    """
    times = np.arange(process.timesteps, 0, -1)
    beta, alpha_bar = process.betas[times], process.alpha_bars[times]
    steps = {
        "step": np.arange(process.timesteps),
        "time": times.astype(np.float32),
        "alpha": np.sqrt(alpha_bar),
        "sigma": np.sqrt(1 - alpha_bar),
        "noise_part": beta / np.sqrt(1 - alpha_bar),
        "growth": 1 / np.sqrt(1 - beta),
        "fresh": np.where(times > 1, np.sqrt(beta), 0).astype(np.float32),
    }

    def body(x, now):
        x0 = estimate_x0(denoise, x, now["time"], clip)
        noise_estimate = (x - now["alpha"] * x0) / now["sigma"]
        mean = now["growth"] * (x - now["noise_part"] * noise_estimate)
        return mean + now["fresh"] * step_noise(now["step"]), None

    return jax.lax.scan(body, noise, steps)[0]


def ddim(
    denoise: Denoise,
    process: DDPM,
    noise: Images,
    step_noise: StepNoise,
    steps: int = 100,
    eta: float = 0.0,
    clip: bool = True,
) -> Images:
    """Samples with DDIM (arXiv 2010.02502, equations 12 and 16), DDAE's way.

    The times are 1, 1 + T/steps, ... from above, then index 0. The levels between
    which x moves come from `process.ddim_alpha_bars`, which differ slightly from
    those of training, so the x0 estimate is first turned back into the noise that
    the network saw.

    Args:
        denoise: x0 estimate of (x_t, t) at the training level of t.
        process: gives T and both tables.
        noise: the start.
        step_noise: noise of step 0 to steps - 2; the last step adds none.
        steps: number of network evaluations; must divide T.
        eta: 0 is deterministic, 1 has about the variance of ancestral sampling.
        clip: whether to clip x0 estimates to [-1, 1].

    Raises:
        UserError: where `steps` does not divide T, or eta is outside [0, 1].
    """
    if not 1 <= steps <= process.timesteps or process.timesteps % steps:
        raise UserError(
            f"{steps} DDIM steps do not divide the process's {process.timesteps}"
        )
    _check_fraction("eta", eta)
    times = np.arange(1, process.timesteps + 1, process.timesteps // steps)[::-1]
    here = process.ddim_alpha_bars[times]
    after = process.ddim_alpha_bars[np.append(times[1:], 0)]
    fresh = np.sqrt((1 - here / after) * (1 - after) / (1 - here))
    fresh = np.float32(eta) * fresh
    training = process.alpha_bars[times]
    table = {
        "step": np.arange(steps),
        "time": times.astype(np.float32),
        "training_alpha": np.sqrt(training),
        "training_sigma": np.sqrt(1 - training),
        "alpha": np.sqrt(here),
        "sigma": np.sqrt(1 - here),
        "next_alpha": np.sqrt(after),
        # The last step adds no noise, yet its direction is shortened as if it did.
        "next_sigma": np.sqrt(1 - after - fresh**2),
        "fresh": np.where(np.arange(steps) < steps - 1, fresh, 0).astype(np.float32),
    }

    def body(x, now):
        x0 = estimate_x0(denoise, x, now["time"], clip=False)
        output = (x - now["training_alpha"] * x0) / now["training_sigma"]
        x0 = (x - now["sigma"] * output) / now["alpha"]
        if clip:
            x0 = jnp.clip(x0, -1, 1)
        noise_estimate = (x - now["alpha"] * x0) / now["sigma"]
        x = now["next_alpha"] * x0 + now["next_sigma"] * noise_estimate
        if eta > 0:
            x = x + now["fresh"] * step_noise(now["step"])
        return x, None

    return jax.lax.scan(body, noise, table)[0]


def edm_heun(
    denoise: Denoise,
    process: EDM,
    noise: Images,
    step_noise: StepNoise,
    steps: int = 18,
    churn: float = 0.0,
    clip: bool = True,
) -> Images:
    """Samples with EDM's stochastic second-order sampler (algorithm 2).

    The loop runs over the 2 steps - 1 network evaluations: every step predicts with
    Euler's rule and then corrects with the slope at its end, but the last one, which
    ends at sigma 0. So the network is compiled once and no evaluation is wasted.

    Args:
        denoise: x0 estimate of (x_t, sigma).
        process: gives the schedule, s_min, s_max and s_noise.
        noise: standard normal; multiplied by the first sigma here.
        step_noise: noise of steps 0 to steps - 1.
        steps: length of the schedule.
        churn: the official code's eta in [0, 1]: gamma = (sqrt 2 - 1) churn where
            s_min <= sigma <= s_max, the paper's S_churn over steps.
        clip: whether to clip x0 estimates to [-1, 1].

    Raises:
        UserError: for fewer than 2 steps, or churn outside [0, 1].
    """
    _check_fraction("churn", churn)
    sigmas = process.schedule(steps)
    here, after = sigmas[:-1], sigmas[1:]
    churned = (process.s_min <= here) & (here <= process.s_max)
    raised = here * (1 + np.where(churned, (np.sqrt(2) - 1) * churn, 0))
    fresh = np.sqrt(raised**2 - here**2) * process.s_noise

    evaluations = np.arange(2 * steps - 1)
    step, predicts = evaluations // 2, evaluations % 2 == 0
    table = {
        "step": step,
        "predicts": predicts,
        "sigma": np.where(predicts, raised[step], after[step]).astype(np.float32),
        "length": (after - raised)[step].astype(np.float32),
        "fresh": np.where(predicts, fresh[step], 0).astype(np.float32),
    }

    def body(carry, now):
        x, start, first_slope = carry
        if churn > 0:
            x = x + now["fresh"] * step_noise(now["step"])
        slope = (x - estimate_x0(denoise, x, now["sigma"], clip)) / now["sigma"]
        start = jnp.where(now["predicts"], x, start)
        mean_slope = jnp.where(now["predicts"], slope, (first_slope + slope) / 2)
        return (start + now["length"] * mean_slope, start, slope), None

    start = noise * np.float32(sigmas[0])
    carry = (start, start, jnp.zeros_like(start))
    return jax.lax.scan(body, carry, table)[0][0]


def _check_fraction(name: str, value: float):
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}; it must lie in [0, 1]")
