"""The variance-preserving process in discrete steps (Ho et al., arXiv 2006.11239)."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from ddae_jax.diffusion.discrete import DiscreteProcess
from ddae_jax.diffusion.process import mean_per_example
from ddae_jax.diffusion.schedules import StepTables, linear_betas, step_tables


@dataclasses.dataclass(frozen=True)
class DDPM(DiscreteProcess):
    """DDPM with linear betas; the network predicts the noise.

    Times are 1..T. Index 0 of every table is the clean image. The network receives
    t / T, as in DDAE's code; the original DDPM feeds t.
    """

    first_time: ClassVar[int] = 1

    @functools.cached_property
    def tables(self) -> StepTables:
        """Of training, features and ancestral sampling; t = 0..T, with beta_0 = 0."""
        betas = linear_betas(self.beta_start, self.beta_end, self.timesteps)
        return step_tables(np.append(0, betas).astype(np.float32))

    @functools.cached_property
    def ddim_tables(self) -> StepTables:
        """Of the official DDIM sampler; t = 0..T.

        It comes from T + 1 betas without the leading 0, so index 0 is not quite clean
        and all other levels differ slightly from those of training.
        """
        betas = linear_betas(self.beta_start, self.beta_end, self.timesteps + 1)
        return step_tables(betas.astype(np.float32))

    @property
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar for t = 0..T; float32, shape (T + 1,)."""
        return self.tables.alpha_bar

    @property
    def probe_times(self) -> tuple[int | float, ...]:
        """Noise levels .0100, .0469, .0794."""
        return self.published(1, 11, 21)

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns x_t as it is, and t / T."""
        return x_t, time / self.timesteps

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the simple loss (equation 14): the mean squared noise error."""
        return mean_per_example((noise - output) ** 2)
