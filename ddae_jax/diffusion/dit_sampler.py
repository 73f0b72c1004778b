"""Ancestral sampling with learned variance on a subset of the times (ADM, DiT)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddae_jax.diffusion.dit_process import LearnedVarianceDDPM
from ddae_jax.diffusion.sampling import Denoise, Images, StepNoise, estimate_x0
from ddae_jax.diffusion.variational import posterior
from ddae_jax.errors import UserError


def respaced_times(timesteps: int, steps: int) -> np.ndarray:
    """Returns `steps` of the times 0..timesteps - 1: rising, both ends included.

    Raises:
        UserError: where `steps` is not in 2..timesteps.
    """
    if not 2 <= steps <= timesteps:
        raise UserError(f"{steps} steps are not in 2..{timesteps}")
    stride = (timesteps - 1) / (steps - 1)
    # Summed, not multiplied: the published code's rounding errors decide ties.
    return np.round(np.cumsum([0.0] + [stride] * (steps - 1))).astype(int)


def respaced(
    denoise: Denoise,
    process: LearnedVarianceDDPM,
    noise: Images,
    step_noise: StepNoise,
    steps: int = 250,
    clip: bool = False,
) -> Images:
    """Samples as in arXiv 2102.09672, section 4; 250 steps are DiT's default.

    The chosen times form a shorter process of their own, whose betas follow from the
    alpha-bars; the learned variance lies between that process's bounds.

    Args:
        denoise: (x_t, t) -> twice x_t's channels: the x0 estimate and the variance
            output, as `process.x0_and_variance` gives them.
        process: gives alpha-bar.
        noise: the start, at the last time.
        step_noise: noise of steps 0 to steps - 2; the last step adds none.
        steps: number of network evaluations.
        clip: whether to clip x0 estimates to [-1, 1]; not for latents.
    """
    times = respaced_times(process.timesteps, steps)
    rising = posterior(process.alpha_bars[times])
    table = {
        name: column[::-1].astype(np.float32)
        for name, column in rising._asdict().items()
    }
    table["step"] = np.arange(steps)
    table["time"] = times[::-1].astype(np.float32)
    table["noisy"] = (np.arange(steps) < steps - 1).astype(np.float32)

    def body(x, now: dict[str, Float[Array, ""]]):
        both = estimate_x0(denoise, x, now["time"], clip=False)
        x0, variance = jnp.split(both, 2, axis=-1)
        if clip:
            x0 = jnp.clip(x0, -1, 1)
        upper = (variance + 1) / 2
        log_variance = now["log_low"] + upper * (now["log_high"] - now["log_low"])
        mean = now["from_x0"] * x0 + now["from_x_t"] * x
        fresh = now["noisy"] * jnp.exp(log_variance / 2) * step_noise(now["step"])
        return mean + fresh, None

    return jax.lax.scan(body, noise, table)[0]
