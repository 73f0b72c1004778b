"""Classifier-free guidance (arXiv 2207.12598), within an interval (2404.07724)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.diffusion.process import Process, per_example
from ddae_jax.diffusion.sampler import Denoise, Images
from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Guidance of class-conditional samples: u + scale (c - u).

    On x0 estimates this is the same as on noise or velocity, since each is affine in
    the others at a fixed x_t.

    Attributes:
      scale: 1 is none.
      low, high: noise levels sigma/alpha between which it acts, both included; outside
        the conditional estimate stands. LightningDiT's start t is the highest: level
        (1 - t) / t.
      channels: how many of the image's first channels are guided; None for all. DiT's
        published samples guide 3 of 4.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = math.inf
    channels: int | None = None

    def __post_init__(self):
        if not 0 <= self.low <= self.high:
            raise UserError(
                f"the guidance interval {self.low}, {self.high} is not 0 <= low <= high"
            )
        if self.channels is not None and self.channels < 1:
            raise UserError(
                f"guidance of {self.channels} channels; guide at least 1, or None: all"
            )

    @property
    def acts(self) -> bool:
        """Whether there is any."""
        return self.scale != 1

    def __call__(
        self, conditional: Denoise, unconditional: Denoise, process: Process
    ) -> Denoise:
        """Returns the guided denoise function.

        Where no example's noise level is in the interval, the unconditional network is
        not run. A learned variance, on the channels after the image's, is not guided.
        """

        def denoise(x_t: Images, time: Float[Array, "batch"]) -> Images:
            c = conditional(x_t, time)
            level = process.noise_level(time)
            inside = (self.low <= level) & (level <= self.high)
            guided = jnp.arange(c.shape[-1]) < x_t.shape[-1]
            if self.channels is not None:
                guided &= jnp.arange(c.shape[-1]) < self.channels

            def guide():
                u = unconditional(x_t, time)
                chosen = per_example(inside, c) & guided
                return jnp.where(chosen, u + self.scale * (c - u), c)

            return jax.lax.cond(jnp.any(inside), guide, lambda: c)

        return denoise
