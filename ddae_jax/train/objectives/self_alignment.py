"""Self-representation alignment, SRA (Jiang et al. 2025, arXiv 2505.02831).

An early tap under more noise is to predict a later tap that the average of the same
denoiser has of the same image under less noise.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jaxtyping import Array, Float, Num, PRNGKeyArray

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.process import Process
from ddae_jax.errors import UserError
from ddae_jax.models import pooling
from ddae_jax.settings.fields import setting
from ddae_jax.train.objectives import base
from ddae_jax.train.objectives.base import Examples, Objective, Pass, Setup
from ddae_jax.train.objectives.projection import Projection
from ddae_jax.train.window import Metrics

# Where the smooth L1 distance becomes linear, in the published code.
_BEND = 0.05
# sigma / (alpha + sigma) that is little enough; our choice.
_LEAST_NOISE = 0.01


@dataclasses.dataclass(frozen=True)
class SelfAlignment(Objective):
    """Agreement, position by position, of two taps at two noise levels."""

    on: bool = base.on_setting()
    weight: float = base.weight_setting(0.2)
    warmup: float = base.warmup_setting(0.0)
    tap: str = setting("", "the early one; empty: a quarter of the way to the last")
    teacher_tap: str = setting("", "the later one; empty: two thirds of the way")
    shift: float = setting(
        0.2,
        "the average sees up to this much less noise, in the time of a rectified flow: "
        "sigma / (alpha + sigma)",
        above=0,
        most=1,
    )
    hidden: int | None = setting(
        None,
        "width inside the projector; None: twice the early tap's, as published",
        least=1,
        most=65_536,
    )

    def taps(self, denoiser: Denoiser) -> tuple[str, ...]:
        """The early one."""
        return (self.tap or base.tap_at(denoiser, 0.25),)

    def later_tap(self, denoiser: Denoiser) -> str:
        """The later one."""
        return self.teacher_tap or base.tap_at(denoiser, 2 / 3)

    def check(self, setup: Setup) -> None:
        """Raises a UserError where the taps are not one after the other."""
        order = list(setup.denoiser.network.tap_paths())
        (early,), late = self.taps(setup.denoiser), self.later_tap(setup.denoiser)
        if order.index(early) >= order.index(late):
            raise UserError(f"teacher_tap: {late} does not come after tap {early}")

    def init(
        self,
        key: PRNGKeyArray,
        denoiser: Denoiser,
        taps: Mapping[str, jax.ShapeDtypeStruct],
        rows: Mapping[str, jax.ShapeDtypeStruct],
    ) -> dict:
        """Draws the projector, which is left out at the later tap."""
        (early,) = self.taps(denoiser)
        features, wanted = (
            taps[t].shape[-1] for t in (early, self.later_tap(denoiser))
        )
        projector = self._projector(features, wanted)
        return {"projector": projector.init(key, jnp.zeros((1, features)))["params"]}

    def draw(
        self,
        key: PRNGKeyArray,
        images: Num[Array, "batch height width channels"],
        rows: Mapping[str, Array],
        examples: Examples,
        denoiser: Denoiser,
    ) -> dict[str, Array]:
        """Draws how much less noise the average sees."""
        share = jax.random.uniform(key, (len(images),), maxval=self.shift)
        return {"time": less_noisy(denoiser.process, examples.time, share)}

    def __call__(
        self, own: dict, teacher: dict, drawn: Any, student: Pass
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the mean smooth L1 distance of the predicted and the later tap."""
        denoiser, examples = student.denoiser, student.examples
        (early,), late = self.taps(denoiser), self.later_tap(denoiser)
        extra = denoiser.network.extra_tokens
        size = examples.x0.shape[1:3]

        def as_grid(tap):
            return pooling.grid(pooling.positions(tap, extra), size)

        x_t = denoiser.process.add_noise(examples.x0, examples.noise, drawn["time"])
        target = denoiser.taps(
            student.ema,
            x_t,
            drawn["time"],
            (late,),
            examples.labels,
            examples.augment_labels,
        )[late]
        target = jax.lax.stop_gradient(as_grid(target))
        given = pooling.matched(as_grid(student.taps[early]), target.shape[1:3])
        projector = self._projector(given.shape[-1], target.shape[-1])
        predicted = projector.apply({"params": own["projector"]}, given)
        distances = optax.losses.huber_loss(predicted, target, delta=_BEND)
        distances = distances / _BEND
        losses = distances.mean(axis=(1, 2, 3))
        cosine = optax.losses.cosine_similarity(predicted, target, epsilon=1e-6)
        return losses.mean(), {
            "loss": Average.from_model_output(losses),
            "cosine": Average.from_model_output(cosine.mean(axis=(1, 2))),
        }

    def _projector(self, features: int, wanted: int) -> Projection:
        return Projection((self.hidden or 2 * features, wanted), batch_norm=False)


def less_noisy(
    process: Process, time: Float[Array, "batch"], share: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """The process's time where sigma / (alpha + sigma) is lower by `share`.

    That is the time of a rectified flow, in which the paper shifts. It ends at 0.01:
    below, EDM's training hardly ever is, and DDPM's never.
    """
    alpha, sigma = process.alpha(time), process.sigma(time)
    flow_time = sigma / (alpha + sigma)
    lowest = jnp.minimum(flow_time, _LEAST_NOISE)
    flow_time = jnp.maximum(flow_time - share, lowest)
    return process.time_at(flow_time / (1 - flow_time))
