"""The linear path with velocity prediction (SiT, LightningDiT; rectified flow)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.process import per_example
from ddae_jax.errors import UserError

TIME_DISTRIBUTIONS = ("logit_normal", "uniform")

# Shorter vectors count as this long. The last layer starts at zero, where the slope of
# the cosine is one over this; torch's 1e-8 would make the first gradient 1e8.
_SHORTEST = 1e-3


def shift_time(
    time: Float[Array | np.ndarray, "..."], shift: float
) -> Float[Array | np.ndarray, "..."]:
    """Returns s t / (1 + (s - 1) t) (SD3, arXiv 2403.03206, section 5.3.2).

    With t = 0 for noise, s < 1 moves times towards the noise; 1 leaves them.
    """
    return shift * time / (1 + (shift - 1) * time)


@dataclasses.dataclass(frozen=True)
class Flow:
    """x_t = t x0 + (1 - t) noise; the network predicts the velocity x0 - noise.

    Time runs as in SiT's and LightningDiT's code: 0 is noise, 1 is data. The network
    receives t itself. (SD3 and rectified-flow texts often count the other way.)

    Attributes:
        time_distribution: of training times, one of TIME_DISTRIBUTIONS.
        logit_mean: mean of logit(t) where it is logit_normal.
        logit_std: standard deviation of logit(t) where it is logit_normal.
        shift: `shift_time` of training times; 1 for none.
        cosine_loss: whether 1 - cosine similarity of the velocities over channels is
            added to the squared error (LightningDiT, arXiv 2501.01423, table 1).
    """

    time_distribution: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 1.0
    cosine_loss: bool = False

    def __post_init__(self):
        if self.time_distribution not in TIME_DISTRIBUTIONS:
            raise UserError(
                f"time_distribution is {self.time_distribution!r}; "
                f"known: {', '.join(TIME_DISTRIBUTIONS)}"
            )
        for name in ("logit_std", "shift"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be positive")

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws times in (0, 1)."""
        if self.time_distribution == "uniform":
            time = jax.random.uniform(key, (count,))
        else:
            normal = jax.random.normal(key, (count,))
            time = jax.nn.sigmoid(self.logit_mean + self.logit_std * normal)
        return shift_time(time, self.shift)

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns t."""
        return time

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1 - t."""
        return 1 - time

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns (1 - t) / t, infinite at t = 0."""
        return (1 - time) / time

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1 / (1 + noise level)."""
        return 1 / (1 + noise_level)

    def official_time(self, index: int | float) -> float:
        """Returns the probe time, which is t itself; 0.95 has noise level 0.053.

        Raises:
            UserError: where `index` is not in [0, 1].
        """
        if not 0 <= index <= 1:
            raise UserError(f"flow time {index} is not in [0, 1] (0 noise, 1 data)")
        return float(index)

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns t x0 + (1 - t) noise."""
        time = per_example(time, x0)
        return time * x0 + (1 - time) * noise

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns both as they are."""
        return x_t, time

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns x_t + (1 - t) output."""
        return x_t + (1 - per_example(time, x_t)) * output

    def noise_estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns x_t - t output."""
        return x_t - per_example(time, x_t) * output

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the squared error of the velocity, plus the cosine loss if chosen."""
        velocity = x0 - noise
        loss = jnp.mean((output - velocity) ** 2, axis=tuple(range(1, x0.ndim)))
        if self.cosine_loss:
            distance = 1 - _cosine(output, velocity)
            loss += jnp.mean(distance, axis=tuple(range(1, distance.ndim)))
        return loss


def _cosine(a: Float[Array, "*shape c"], b: Float[Array, "*shape c"]) -> Array:
    """Cosine similarity over the last axis, with finite slopes at zero."""
    squares = [jnp.sum(v**2, axis=-1) for v in (a, b)]
    lengths = [jnp.sqrt(jnp.maximum(square, _SHORTEST**2)) for square in squares]
    return jnp.sum(a * b, axis=-1) / (lengths[0] * lengths[1])
