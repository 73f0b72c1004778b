"""Feeds the training step: resident sets are gathered on the device, others stream."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PRNGKeyArray

from ddae_jax.data import batches
from ddae_jax.data.source import Source
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.train.state import TrainState
from ddae_jax.train.step import TrainStep


class Dispatch:
    """Runs optimiser steps: dispatch(state, step, count) -> (state, metrics).

    It makes `count` steps from `step` on, in order, in one call; metrics have a leading
    axis of steps. One program is compiled for every count.

    Attributes:
      step_flops: floating-point operations of one step, as XLA counts them; None before
        the first call, and where XLA does not tell.
    """

    def __init__(
        self,
        run,
        inputs: Callable[[int, int], tuple],
        count_flops: Callable[[TrainState], float | None],
    ):
        """Runs `run(state, *inputs(step, count))`, a function made by jax.jit.

        `count_flops` is for backends that do not count themselves.
        """
        self._run = run
        self._inputs = inputs
        self._count_flops = count_flops
        self._programs = {}
        self.step_flops: float | None = None

    def __call__(
        self, state: TrainState, step: int, count: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        arguments = (state, *self._inputs(step, count))
        if count not in self._programs:
            lowered = self._run.lower(*arguments)
            if not self._programs:
                # XLA counts the body of a loop once, and that is one step.
                counted = (lowered.cost_analysis() or {}).get("flops")
                self.step_flops = counted or self._count_flops(state)
            self._programs[count] = lowered.compile()
        return self._programs[count](*arguments)


@dataclasses.dataclass(frozen=True)
class Feed:
    """How batches reach the step.

    Attributes:
      source: the training set.
      batch_size: over all devices.
      seed: of the order of the images and of all draws in training.
      mesh: of the devices.
      threads: that decode sets which are not resident.
    """

    source: Source
    batch_size: int
    seed: int
    mesh: Mesh
    threads: int = 8

    def key(self) -> PRNGKeyArray:
        """The key that training draws from; folded with the step."""
        return stream(self.seed, "train/step")


def make_dispatch(
    feed: Feed, train_step: TrainStep, shardings: TrainState, first_step: int
) -> Dispatch:
    """Returns what runs the steps on the images of `feed`.

    Args:
      shardings: of the state.
      first_step: where streaming starts to read.
    """
    if feed.source.images is not None:
        return _resident(feed, train_step, shardings)
    return _streaming(feed, train_step, shardings, first_step)


def _scan(body, state, inputs, count):
    # One step alone is not wrapped: XLA:CPU runs convolutions in a loop on one thread.
    if count == 1:
        state, metrics = body(state, jax.tree.map(lambda leaf: leaf[0], inputs))
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)
    return jax.lax.scan(body, state, inputs)


def _jit(function, shardings: TrainState, mesh: Mesh):
    return jax.jit(
        function,
        donate_argnums=0,
        out_shardings=(shardings, parallel.replicated(mesh)),
        compiler_options=compiler.compiler_options(),
    )


def _constrained(sharding: NamedSharding):
    return lambda array: jax.lax.with_sharding_constraint(array, sharding)


def _resident(feed: Feed, train_step: TrainStep, shardings: TrainState) -> Dispatch:
    mesh, key = feed.mesh, feed.key()
    images = parallel.place(feed.source.images, parallel.replicated(mesh))
    labels = parallel.place(feed.source.labels, parallel.replicated(mesh))
    order = batches.Order(feed.seed, len(feed.source))
    split = _constrained(parallel.batch_sharding(mesh))

    def run(state, images, labels, indices, key):
        def body(state, chosen):
            chosen = split(chosen)
            return train_step(state, split(images[chosen]), labels[chosen], key)

        return _scan(body, state, indices, len(indices))

    def inputs(step, count):
        indices = np.stack(
            [order.batch(step + i, feed.batch_size) for i in range(count)]
        )
        placed = parallel.place(indices, parallel.batch_sharding(mesh, axis=1))
        return images, labels, placed, key

    count_flops = functools.partial(one_step_flops, feed, train_step)
    return Dispatch(_jit(run, shardings, mesh), inputs, count_flops)


def _streaming(
    feed: Feed, train_step: TrainStep, shardings: TrainState, first_step: int
) -> Dispatch:
    mesh, key = feed.mesh, feed.key()
    reader: Iterator = batches.stream(
        feed.source,
        batches.Order(feed.seed, len(feed.source)),
        feed.batch_size,
        start_step=first_step,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        threads=feed.threads,
    )
    sharding = parallel.batch_sharding(mesh, axis=1)

    def run(state, images, labels, key):
        def body(state, batch):
            return train_step(state, *batch, key)

        return _scan(body, state, (images, labels), len(images))

    def inputs(step, count):
        read = [next(reader)[:2] for _ in range(count)]
        images, labels = (
            jax.make_array_from_process_local_data(sharding, np.stack(part))
            for part in zip(*read, strict=True)
        )
        return images, labels, key

    count_flops = functools.partial(one_step_flops, feed, train_step)
    return Dispatch(_jit(run, shardings, mesh), inputs, count_flops)


def one_step_flops(
    feed: Feed, train_step: TrainStep, state: TrainState
) -> float | None:
    """Operations of one step, where the backend itself does not count them."""
    batch = (feed.batch_size, *feed.source.image_shape)
    images = jax.ShapeDtypeStruct(batch, np.uint8)
    labels = jax.ShapeDtypeStruct(batch[:1], np.int32)
    return compiler.flops_on_cpu(train_step, state, images, labels, feed.key())
