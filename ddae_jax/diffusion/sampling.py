"""What all samplers share: their arguments, and the call of the denoiser.

A sampler is a function `(denoise, process, noise, step_noise, ...) -> x0`:
`denoise(x_t, time)` gives the x0 estimate, not clipped; `noise` is the standard normal
start; `step_noise(step)` gives the standard normal noise of loop step 0, 1, ..., where
`step` is traced, and is not called where the sampler is deterministic. Results lie
about in [-1, 1] and are clipped only through the x0 estimates.

Each sampler is one `lax.scan` over tables of coefficients. Call it inside `jax.jit`:
outside, every call compiles anew.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Images = Float[Array, "batch ..."]
Denoise = Callable[[Images, Float[Array, "batch"]], Images]
StepNoise = Callable[[Int[Array, ""]], Images]


def estimate_x0(
    denoise: Denoise, x_t: Images, time: Float[Array, ""], clip: bool
) -> Images:
    """Calls the denoiser with one time for the whole batch; clips to [-1, 1]."""
    x0 = denoise(x_t, jnp.full(x_t.shape[:1], time))
    return jnp.clip(x0, -1, 1) if clip else x0
