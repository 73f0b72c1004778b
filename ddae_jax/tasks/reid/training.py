"""One step of one or two networks that teach each other, and the trainer of steps."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from ddae_jax.data import augment
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.tasks.reid.losses import Losses
from ddae_jax.tasks.reid.model import Embedder
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed, Steps, each
from ddae_jax.train.optimizers import FromOptax, Optimizer, Schedule
from ddae_jax.train.window import Metrics, single

NETWORKS = ("first", "second")
"""Names of the networks; there is a second one in mutual learning."""


@flax.struct.dataclass
class ReidState:
    """What training carries.

    Attributes:
      step: optimiser steps done.
      params: name of each network -> its parameters, float32.
      statistics: likewise, of batch normalisation.
      opt_state: of the optimiser of all.
    """

    step: Int[Array, ""]
    params: dict
    statistics: dict
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class AdamL2(FromOptax):
    """Adam whose gradient has the l2 term, as PyTorch's weight_decay; not AdamW."""

    schedule: Schedule
    weight_decay: float

    def rule(self) -> optax.GradientTransformation:
        """optax's."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.adam(self.schedule)
        )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, on the accelerator.

    Attributes:
      flip: mirror them at random.
      crop: shift them by up to this many pixels; 0 for none.
      erase: probability of a rectangle of random pixels.
    """

    flip: bool
    crop: int
    erase: float

    def __call__(
        self, key: PRNGKeyArray, images: Array, positions: Int[Array, "batch"]
    ) -> Array:
        """Returns uint8 images; each is treated by (key, its position)."""
        flip, crop, erase = jax.random.split(key, 3)
        if self.flip:
            images = augment.random_flip(augment.example_keys(flip, positions), images)
        if self.crop:
            keys = augment.example_keys(crop, positions)
            images = augment.random_crop(keys, images, self.crop)
        if self.erase:
            keys = augment.example_keys(erase, positions)
            images = augment.random_erasing(keys, images, self.erase)
        return images


@dataclasses.dataclass(frozen=True)
class ReidStep:
    """The recipe of one step.

    Attributes:
      embedder: of each network.
      count: of networks, 1 or 2.
      losses: of all of them together.
      optimizer: likewise.
      augmentation: both networks see the same images.
    """

    embedder: Embedder
    count: int
    losses: Losses
    optimizer: Optimizer
    augmentation: Augmentation

    def create(
        self,
        key: PRNGKeyArray,
        image_shape: tuple[int, ...],
        given: dict | None,
        fixed: dict,
    ) -> ReidState:
        """The state before the first step; see `Embedder.init`; for use inside jit."""
        params, statistics = {}, {}
        for number, name in enumerate(NETWORKS[: self.count]):
            own = jax.random.fold_in(key, number)
            params[name], statistics[name] = self.embedder.init(
                own, image_shape, given, fixed
            )
        return ReidState(jnp.int32(0), params, statistics, self.optimizer.init(params))

    def __call__(
        self, state: ReidState, fixed: dict, batch: Batch, key: PRNGKeyArray
    ) -> tuple[ReidState, Metrics]:
        """Augments and adds noise by (key, place of the image), then optimises.

        Returns the state, and the metrics of the parameters before the step.
        """
        augment_key, noise_key = jax.random.split(key)
        images = self.augmentation(augment_key, batch.images, batch.positions)
        noise = self.embedder.noise(noise_key, batch.positions, images.shape[1:])
        x0 = augment.to_float(images)

        def loss(params):
            found, after = {}, {}
            for name, own in params.items():
                found[name], after[name] = self.embedder(
                    own, state.statistics[name], fixed, x0, noise, train=True
                )
            total, metrics = self.losses(list(found.values()), batch.labels)
            return total, (after, metrics)

        gradient, (after, metrics) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        if not self.embedder.frozen:
            project = self.embedder.backbone.project
            params = {
                name: own | {"backbone": project(own["backbone"])}
                for name, own in params.items()
            }
        metrics = {name: single(value) for name, value in metrics.items()}
        metrics["gradient_norm"] = single(optax.global_norm(gradient))
        return ReidState(state.step + 1, params, after, opt_state), metrics


class ReidTraining:
    """The training as a `loop.Trainer`.

    Attributes:
      recipe: of one step.
      feed: batches of P persons x K images.
      given: variables of a trained backbone, on the mesh; None: random ones.
      fixed: what is not trained, on the mesh.
    """

    def __init__(self, recipe: ReidStep, feed: Feed, given: dict | None, fixed: dict):
        self.recipe, self.feed = recipe, feed
        self.given, self.fixed = given, fixed
        self._init_key = stream(feed.seed, "reid/init")
        self._draws = stream(feed.seed, "reid/draws")

    def create(self) -> ReidState:
        """Each network with its own random values."""
        shape = tuple(self.feed.source.image_shape)
        return _create(
            self.recipe, self.feed.mesh, shape, self._init_key, self.given, self.fixed
        )

    def abstract(self) -> ReidState:
        """Shapes and shardings of the state."""
        return abstract_state(
            self.recipe,
            self.feed.mesh,
            tuple(self.feed.source.image_shape),
            self.given,
            self.fixed,
        )

    def dispatch(
        self, state: ReidState, step: int, count: int
    ) -> tuple[ReidState, Metrics]:
        """Makes `count` steps in one program."""
        steps = self.feed.steps(step, count)
        return _run(self.recipe, state, self.fixed, steps, self._draws)

    def learning_rate(self, step: int) -> float:
        """Of all parameters."""
        return optimizers.rate_at(self.recipe.optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self.feed.seconds

    def flops(self) -> None:
        """Not counted."""


def abstract_state(
    recipe: ReidStep, mesh: Any, shape: tuple, given: dict | None, fixed: dict
) -> ReidState:
    """The state as ShapeDtypeStructs with shardings."""

    def init(key, given, fixed):
        return recipe.create(key, shape, given, fixed)

    rules = recipe.embedder.backbone.rules
    arguments = (jax.random.key(0), given, fixed)
    return train_state.abstract(init, mesh, *arguments, rules=rules)


@compiler.jit(once=True, static_argnames=("recipe", "mesh", "shape"))
def _create(recipe, mesh, shape, key, given, fixed):
    state = recipe.create(key, shape, given, fixed)
    rules = recipe.embedder.backbone.rules
    return parallel.constrain(state, parallel.state_shardings(mesh, state, rules))


@compiler.jit(static_argnames=("recipe",), donate_argnames=("state",))
def _run(recipe, state, fixed, steps: Steps, key):
    def body(state, batch):
        return recipe(state, fixed, batch, key)

    return each(body, state, steps, recipe.embedder.backbone.rules)
