"""Optimisers and their schedules as values: equal ones share one compiled program."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ddae_jax.train import norms

Step = Int[Array, ""] | int
Schedule = Callable[[Step], Float[Array, ""]]
"""Step, from 0 -> learning rate; hashable."""


class Optimizer(Protocol):
    """An optax optimiser that knows its rate: frozen and hashable."""

    @property
    def schedule(self) -> Schedule | float:
        """The learning rate by step, or one for all."""

    def init(self, params: dict) -> optax.OptState:
        """The state before the first step."""

    def update(
        self, gradient: dict, state: optax.OptState, params: dict | None = None
    ) -> tuple[dict, optax.OptState]:
        """Returns what is added to the parameters, and the next state."""


class FromOptax(abc.ABC):
    """An `Optimizer` of what `rule` returns, for frozen dataclasses."""

    @abc.abstractmethod
    def rule(self) -> optax.GradientTransformation:
        """The optimiser in optax's terms."""

    def init(self, params: dict) -> optax.OptState:
        """The state before the first step."""
        return self.rule().init(params)

    def update(
        self, gradient: dict, state: optax.OptState, params: dict | None = None
    ) -> tuple[dict, optax.OptState]:
        """Returns what is added to the parameters, and the next state."""
        return self.rule().update(gradient, state, params)


def rate_at(optimizer: Optimizer, step: int) -> float:
    """The learning rate of the step after `step`."""
    schedule = optimizer.schedule
    return float(schedule(jnp.int32(step)) if callable(schedule) else schedule)


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Linear from learning_rate / warmup_steps at step 0, then constant.

    With `decay_from`, from that step on learning_rate * sqrt(decay_from / step): the
    inverse square root schedule of EDM2 (Karras et al. 2024, arXiv 2312.02696).
    """

    learning_rate: float
    warmup_steps: int
    decay_from: int = 0

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The rate of a step."""
        warm = jnp.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        rate = self.learning_rate * warm
        if self.decay_from:
            rate = rate * jax.lax.rsqrt(jnp.maximum(step / self.decay_from, 1.0))
        return rate


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear from learning_rate / warmup_steps at step 0, then a half cosine to 0."""

    learning_rate: float
    warmup_steps: int
    steps: int

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The rate of a step."""
        warmup = self.warmup_steps
        rising = (step + 1) / max(warmup, 1)
        done = (step - warmup) / max(self.steps - warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return self.learning_rate * jnp.where(step < warmup, rising, falling)


@dataclasses.dataclass(frozen=True)
class ConstantThenExponential:
    """Constant to step `decay_from`, then exponential decay.

    After `steps` steps the rate is `decay_to` times what it was.
    """

    learning_rate: float
    decay_from: int
    steps: int
    decay_to: float

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The rate of a step."""
        done = (step - self.decay_from) / max(self.steps - self.decay_from, 1)
        return self.learning_rate * self.decay_to ** jnp.clip(done, 0, 1)


@dataclasses.dataclass(frozen=True)
class CosineAfterWarmup:
    """Schedule over optimiser steps that moves once an epoch.

    Linear to `learning_rate` over the warm-up epochs, the first of which has 1/warm-up
    of it; then the half cosine that ends at 0 after the last epoch, scaled to meet
    the warm-up: what PyTorch's CosineAnnealingLR makes of it in the published code.
    A batch belongs to the epoch of its first image, of `count`.
    """

    learning_rate: float
    epochs: int
    warmup_epochs: int
    batch_size: int
    count: int

    def __call__(self, step: Step) -> Float[Array, ""]:
        """The rate of a step."""
        epochs, warmup = self.epochs, self.warmup_epochs
        peak = 1 + jnp.cos(jnp.pi * max(warmup - 1, 0) / epochs)
        epoch = step * self.batch_size // self.count
        rising = (epoch + 1) / max(warmup, 1)
        falling = (1 + jnp.cos(jnp.pi * epoch / epochs)) / peak
        return self.learning_rate * jnp.where(epoch < warmup, rising, falling)


@dataclasses.dataclass(frozen=True)
class Adam(FromOptax):
    """Adam (Kingma & Ba 2015) after clipping of the gradient's global norm.

    With `weight_decay` AdamW (Loshchilov & Hutter 2019), on all parameters.

    Attributes:
      clip_norm: None: the gradient is taken as it is.
    """

    schedule: Schedule | float
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0

    def rule(self) -> optax.GradientTransformation:
        """optax's."""
        moments = {"b1": self.b1, "b2": self.b2, "eps": self.epsilon}
        if self.weight_decay:
            moments["weight_decay"] = self.weight_decay
            rule = optax.adamw(self.schedule, **moments)
        else:
            rule = optax.adam(self.schedule, **moments)
        if self.clip_norm is None:
            return rule
        return optax.chain(norms.clip(self.clip_norm), rule)
