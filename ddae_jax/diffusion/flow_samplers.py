"""Samplers of the linear path: its ordinary differential equation, in one loop each.

The velocity follows from the x0 estimate, (x0 - x_t) / (1 - t). Latents are unbounded,
so x0 estimates are not clipped unless asked.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.diffusion.flow import Flow, shift_time
from ddae_jax.diffusion.sampling import Denoise, Images, StepNoise, estimate_x0
from ddae_jax.errors import UserError


def flow_schedule(steps: int, shift: float) -> np.ndarray:
    """Returns the shifted times from 0 (noise) to 1 (data), float64, (steps + 1,).

    Raises:
        UserError: for fewer than 1 step, or a shift that is not positive.
    """
    if steps < 1:
        raise UserError(f"a flow sampler needs at least 1 step, not {steps}")
    if shift <= 0:
        raise UserError(f"shift is {shift}; it must be positive")
    times = shift_time(np.linspace(0, 1, steps + 1), shift)
    times[-1] = 1  # else rounding may stop short of it
    return times


def flow_euler(
    denoise: Denoise,
    process: Flow,
    noise: Images,
    step_noise: StepNoise,
    steps: int = 250,
    shift: float = 0.3,
    clip: bool = False,
) -> Images:
    """Samples with Euler's rule; the defaults are LightningDiT's.

    Args:
        denoise: x0 estimate of (x_t, t).
        process: not used, as step_noise: the path is fixed, the way deterministic.
        noise: standard normal, x at t = 0.
        step_noise: not used.
        steps: number of network evaluations.
        shift: `shift_time` of the even grid; below 1 the steps crowd at the noise.
        clip: whether to clip x0 estimates to [-1, 1].
    """
    times = flow_schedule(steps, shift)
    here, after = times[:-1], times[1:]
    table = {
        "time": here.astype(np.float32),
        "fraction": ((after - here) / (1 - here)).astype(np.float32),
    }

    def body(x, now):
        x0 = estimate_x0(denoise, x, now["time"], clip)
        return x + now["fraction"] * (x0 - x), None

    return jax.lax.scan(body, noise, table)[0]


def flow_heun(
    denoise: Denoise,
    process: Flow,
    noise: Images,
    step_noise: StepNoise,
    steps: int = 50,
    shift: float = 0.3,
    clip: bool = False,
) -> Images:
    """Samples with Heun's rule: 2 steps - 1 network evaluations.

    The last step is Euler's, as in EDM: at t = 1 there is no noise from which an x0
    estimate could tell the velocity. Arguments are those of `flow_euler`.
    """
    times = flow_schedule(steps, shift)
    evaluations = np.arange(2 * steps - 1)
    step, predicts = evaluations // 2, evaluations % 2 == 0
    time = np.where(predicts, times[step], times[step + 1])
    table = {
        "predicts": predicts,
        "time": time.astype(np.float32),
        "rate": (1 / (1 - time)).astype(np.float32),
        "length": np.diff(times)[step].astype(np.float32),
    }

    def body(carry, now):
        x, start, first_velocity = carry
        x0 = estimate_x0(denoise, x, now["time"], clip)
        velocity = (x0 - x) * now["rate"]
        start = jnp.where(now["predicts"], x, start)
        mean = jnp.where(now["predicts"], velocity, (first_velocity + velocity) / 2)
        return (start + now["length"] * mean, start, velocity), None

    carry = (noise, noise, jnp.zeros_like(noise))
    return jax.lax.scan(body, carry, table)[0][0]
