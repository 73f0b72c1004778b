"""Classifier-free guidance (arXiv 2207.12598), within an interval (2404.07724)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.diffusion.process import Process, per_example
from ddae_jax.diffusion.sampling import Denoise, Images
from ddae_jax.errors import UserError


def guided(
    denoise_conditional: Denoise,
    denoise_unconditional: Denoise,
    process: Process,
    scale: float,
    interval: tuple[float, float] = (0.0, float("inf")),
    channels: int | None = None,
) -> Denoise:
    """Returns u + scale (c - u) as a denoise function; 1 is no guidance.

    On x0 estimates this is the same as on noise or velocity, since each is affine in
    the others at a fixed x_t. Outside the interval the conditional estimate stands,
    and where no example is inside, the unconditional network is not run.

    Args:
        denoise_conditional: c of (x_t, time).
        denoise_unconditional: u of (x_t, time).
        process: turns times into noise levels.
        scale: guidance scale.
        interval: lowest and highest noise level sigma/alpha that is guided, both
            included. LightningDiT's start t is the highest: level (1 - t) / t.
        channels: how many of the first channels are guided; None for all. DiT's
            published samples guide 3 of 4. A denoiser that also returns a learned
            variance must name the image's channels here at most.

    Raises:
        UserError: for an interval that is empty or negative, or no channels.
    """
    low, high = interval
    if not 0 <= low <= high:
        raise UserError(f"the guidance interval {interval} is not 0 <= low <= high")
    if channels is not None and channels < 1:
        raise UserError(f"channels is {channels}; guide at least 1, or None for all")

    def denoise(x_t: Images, time: Float[Array, "batch"]) -> Images:
        conditional = denoise_conditional(x_t, time)
        level = process.noise_level(time)
        inside = (low <= level) & (level <= high)

        def guide():
            unconditional = denoise_unconditional(x_t, time)
            towards = unconditional + scale * (conditional - unconditional)
            chosen = per_example(inside, conditional)
            if channels is not None:
                chosen = chosen & (jnp.arange(conditional.shape[-1]) < channels)
            return jnp.where(chosen, towards, conditional)

        return jax.lax.cond(jnp.any(inside), guide, lambda: conditional)

    return denoise
