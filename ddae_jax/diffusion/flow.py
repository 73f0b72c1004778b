"""The linear path with velocity prediction (SiT, LightningDiT; rectified flow)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.diffusion.process import Process, mean_per_example, per_example
from ddae_jax.diffusion.schedules import shift_time
from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting

TIME_DISTRIBUTIONS = ("logit_normal", "uniform")

# Shorter vectors count as this long. The last layer starts at zero, where the gradient
# of the cosine is one over this; torch's 1e-8 would make the first gradient 1e8.
_SHORTEST = 1e-3

# Heads were published for DDPM, whose times run to 1000.
_HEAD_SCALE = 1000


@dataclasses.dataclass(frozen=True)
class Flow(Process):
    """x_t = t x0 + (1 - t) noise; the network predicts the velocity x0 - noise.

    Time runs as in SiT's and LightningDiT's code: 0 is noise, 1 is data. The network
    receives t itself. (SD3 and rectified-flow texts often count the other way.)
    """

    time_distribution: str = setting(
        "logit_normal", "of training times", choices=TIME_DISTRIBUTIONS
    )
    logit_mean: float = setting(
        0.0, "mean of logit(t), if logit_normal", least=-10, most=10
    )
    logit_std: float = setting(
        1.0, "standard deviation of logit(t), if logit_normal", above=0, most=10
    )
    shift: float = setting(
        1.0,
        "of training times: below 1 towards the noise; 1: none",
        least=1e-3,
        most=1000,
    )
    cosine_loss: bool = setting(
        False, "add 1 - cosine similarity of the velocities over channels"
    )

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns t."""
        return time

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1 - t."""
        return 1 - time

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1 / (1 + noise level)."""
        return 1 / (1 + noise_level)

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws times in (0, 1)."""
        if self.time_distribution == "uniform":
            time = jax.random.uniform(key, (count,))
        else:
            normal = jax.random.normal(key, (count,))
            time = jax.nn.sigmoid(self.logit_mean + self.logit_std * normal)
        return shift_time(time, self.shift)

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns x_t + (1 - t) output."""
        return x_t + (1 - per_example(time, x_t)) * output

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the squared error of the velocity, plus the cosine loss if chosen.

        The latter is LightningDiT's (arXiv 2501.01423, table 1).
        """
        velocity = x0 - noise
        loss = mean_per_example((output - velocity) ** 2)
        if self.cosine_loss:
            loss += mean_per_example(1 - _cosine(output, velocity))
        return loss

    def official_time(self, index: int | float) -> float:
        """Returns the probe time, which is t itself; 0.95 has noise level 0.053.

        Raises:
          UserError: `index` is not in [0, 1].
        """
        if not 0 <= index <= 1:
            raise UserError(f"time {index} is not in [0, 1] (0 noise, 1 data)")
        return float(index)

    @property
    def probe_times(self) -> tuple[int | float, ...]:
        """None are published: noise levels .176, .111, .053, where DDPM's are best."""
        return (0.85, 0.9, 0.95)

    @property
    def contrastive_times(self) -> tuple[int | float, ...]:
        """None is published: noise level .053, about that of DDPM's t = 11."""
        return (0.95,)

    @property
    def test_times(self) -> tuple[int | float, ...]:
        """None are published: 0.95, 0.90, ..., 0.05, from little noise to much."""
        return tuple(i / 20 for i in range(19, 0, -1))

    def head_condition(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns 1000 t: the range of times for which the sinusoid was made."""
        return _HEAD_SCALE * time


def _cosine(
    a: Float[Array, "*shape c"], b: Float[Array, "*shape c"]
) -> Float[Array, "*shape"]:
    """Cosine similarity over the last axis, with finite gradients at zero."""
    squares = [jnp.sum(v**2, axis=-1) for v in (a, b)]
    lengths = [jnp.sqrt(jnp.maximum(square, _SHORTEST**2)) for square in squares]
    return jnp.sum(a * b, axis=-1) / (lengths[0] * lengths[1])
