"""Pre-training as a `loop.Trainer`: the programs that make the steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange

from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.train import objective_state, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed, Steps, each
from ddae_jax.train.state import TrainState
from ddae_jax.train.step import Keys, TrainStep
from ddae_jax.train.window import Metrics, stacked


class Pretraining:
    """Pre-training as a `loop.Trainer`.

    Attributes:
      recipe: of one step.
      feed: the images.
      accumulate: the batch is worked off in this many parts of equal size, whose
        gradients are averaged: the device's memory need only hold one.
      start: initial parameters of the denoiser, as they are drawn -> those to begin
        with, both on the mesh; None begins with the drawn ones.
    """

    def __init__(
        self,
        recipe: TrainStep,
        feed: Feed,
        accumulate: int = 1,
        start: Callable[[dict], dict] | None = None,
    ):
        self.recipe, self.feed, self.accumulate = recipe, feed, accumulate
        self.start = start
        self._keys = Keys.of(feed.seed)
        self._shapes = None

    def create(self) -> TrainState:
        """No device ever holds a whole state that is to be sharded."""
        recipe, seed = self.recipe, self.feed.seed
        shape = self.feed.source.image_shape
        params = train_state.initial_parameters(
            recipe.denoiser,
            stream(seed, "train/init"),
            shape,
            jax.tree.map(lambda leaf: leaf.sharding, self.abstract().params),
        )
        if self.start is not None:
            params = self.start(params)
        state = train_state.placed_first_state(
            params, recipe.optimizer, self.feed.mesh, _rules(recipe)
        )
        if not recipe.objectives:
            return state
        objectives = objective_state.placed_first_states(
            stream(seed, "train/objectives_init"),
            state.params,
            recipe.objectives,
            recipe.denoiser,
            recipe.optimizer,
            shape,
            self._row_shapes,
            self.feed.mesh,
        )
        return state.replace(objectives=objectives)

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state."""
        recipe, shape = self.recipe, self.feed.source.image_shape

        def init(params, key):
            first = train_state.first_state(params, recipe.optimizer)
            objectives = objective_state.first_states(
                key,
                first.params,
                recipe.objectives,
                recipe.denoiser,
                recipe.optimizer,
                shape,
                self._row_shapes,
            )
            return first.replace(objectives=objectives)

        shapes = recipe.denoiser.parameter_shapes(shape)
        key, rules = jax.random.key(0), _rules(recipe)
        return train_state.abstract(init, self.feed.mesh, shapes, key, rules=rules)

    @property
    def _row_shapes(self) -> tuple[tuple[str, jax.ShapeDtypeStruct], ...]:
        return tuple(
            (name, jax.ShapeDtypeStruct(array.shape[1:], array.dtype))
            for name, array in self.feed.beside.items()
        )

    def dispatch(
        self, state: TrainState, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Makes `count` steps, in one program where nothing is accumulated."""
        if self.accumulate > 1:
            return self._accumulated(state, step, count)
        steps = self.feed.steps(step, count)
        if self._shapes is None:
            self._shapes = jax.tree.map(_shape, (state, steps))
        return _run(self.recipe, state, steps, self._keys)

    def learning_rate(self, step: int) -> float:
        """The optimiser's."""
        return optimizers.rate_at(self.recipe.optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self.feed.seconds

    def flops(self) -> float | None:
        """As XLA counts them; not where a step is several programs."""
        if self._shapes is None:
            return None
        # XLA counts the body of a loop once, and that is one step.
        lowered = _run.lower(self.recipe, *self._shapes, self._keys)
        counted = (lowered.cost_analysis() or {}).get("flops")
        return counted or self._flops_on_cpu()

    def program(self) -> str:
        """The text of the compiled program of the first dispatch.

        Not where a step is several programs.
        """
        lowered = _run.lower(self.recipe, *self._shapes, self._keys)
        return lowered.compile().as_text()

    def _flops_on_cpu(self):
        """Where the backend itself does not count them."""
        state, _ = self._shapes
        batch = self.feed.batch_shapes()
        return compiler.flops_on_cpu(self.recipe, state, batch, self._keys)

    def _accumulated(self, state, step, count):
        # Several programs, not one loop: XLA:CPU runs what is in loops on one thread.
        recipe, rows = self.recipe, []
        for number in range(step, step + count):
            batch = self.feed.batch(number)
            parts, dropout = _parts(
                recipe, self.accumulate, self.feed.mesh, state.step, batch, self._keys
            )
            total = None
            for part in range(self.accumulate):
                new = _gradient(recipe, state, parts, part, dropout)
                total = new if total is None else _sum(total, new)
            state, metrics = _apply(
                recipe, self.feed.mesh, self.accumulate, state, *total
            )
            rows.append(metrics)
        return state, stacked(rows)


def _rules(recipe: TrainStep) -> parallel.Rules:
    return recipe.denoiser.network.partition_rules


def _shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@compiler.jit(static_argnames=("recipe",), donate_argnames=("state",))
def _run(recipe: TrainStep, state: TrainState, steps: Steps, keys: Keys):
    def body(state, batch):
        return recipe(state, batch, keys)

    return each(body, state, steps, _rules(recipe))


@compiler.jit(static_argnames=("recipe", "count", "mesh"))
def _parts(recipe, count, mesh, step, batch: Batch, keys: Keys):
    """The examples of a step, (part, batch / count, ...), and the key of dropout."""
    examples, dropout = recipe.draw(step, batch, keys)
    # A part takes every n-th example: so each device keeps its own.
    parts = jax.tree.map(
        lambda leaf: rearrange(leaf, "(n p) ... -> p n ...", p=count), examples
    )
    return parallel.constrain(parts, parallel.batch_sharding(mesh, axis=1)), dropout


@compiler.jit(static_argnames=("recipe",))
def _gradient(recipe, state, parts, number, dropout):
    part = jax.tree.map(lambda leaf: leaf[number], parts)
    return recipe.gradient(state, part, jax.random.fold_in(dropout, number))


@compiler.jit(donate_argnums=(0,))
def _sum(total, new):
    gradient = jax.tree.map(jnp.add, total[0], new[0])
    metrics = {name: metric.merge(new[1][name]) for name, metric in total[1].items()}
    return gradient, metrics


@compiler.jit(static_argnames=("recipe", "mesh", "count"), donate_argnames=("state",))
def _apply(recipe, mesh, count, state, gradient, metrics):
    gradient = jax.tree.map(lambda leaf: leaf / count, gradient)
    state, metrics = recipe.apply(state, gradient, metrics)
    shardings = parallel.state_shardings(mesh, state, _rules(recipe))
    state = parallel.constrain(state, shardings)
    return state, parallel.constrain(metrics, parallel.replicated(mesh))
