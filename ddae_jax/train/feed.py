"""Feeds training steps: resident sets are gathered on the device, others stream."""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Int, Int32, UInt8

from ddae_jax.data import batches
from ddae_jax.data.source import Source
from ddae_jax.runtime import compiler, parallel


@flax.struct.dataclass
class Batch:
    """The images of one step, split over the mesh.

    Attributes:
      images: uint8.
      labels: their classes.
      indices: where they are in the set.
      positions: where they are in the endless order, modulo 2^32: what is drawn for an
        image depends on it.
    """

    images: UInt8[Array, "batch height width channels"]
    labels: Int[Array, "batch"]
    indices: Int[Array, "batch"]
    positions: Int[Array, "batch"]


@flax.struct.dataclass
class Steps:
    """The batches of some steps, as they are given to a compiled function.

    Attributes:
      images: of the whole set where it is resident; else (steps, batch, ...).
      labels: likewise.
      indices, positions: (steps, batch), split over the mesh along the batch.
      resident: whether images and labels are of the whole set.
      mesh: of the devices.
    """

    images: Array
    labels: Array
    indices: Int[Array, "steps batch"]
    positions: Int[Array, "steps batch"]
    resident: bool = flax.struct.field(pytree_node=False)
    mesh: Mesh = flax.struct.field(pytree_node=False)

    def batch(self, row: tuple[Array, ...]) -> Batch:
        """The batch of one row of `rows`; inside a compiled function."""
        indices, positions, *rest = row
        if self.resident:
            rest = self.images[indices], self.labels[indices]
        found = Batch(*rest, indices, positions)
        return parallel.constrain(found, parallel.batch_sharding(self.mesh))

    def rows(self) -> tuple[Array, ...]:
        """What differs from step to step, with a leading axis of steps."""
        streamed = () if self.resident else (self.images, self.labels)
        return (self.indices, self.positions, *streamed)


class Feed:
    """The batches of a training set: a pure function of (seed, step).

    Attributes:
      source: the training set.
      batch_size: over all devices, a multiple of their number.
      seed: of the order.
      mesh: of the devices.
      threads: that decode sets which are not resident.
    """

    def __init__(
        self, source: Source, batch_size: int, seed: int, mesh: Mesh, threads: int = 8
    ):
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.mesh, self.threads = mesh, threads
        self._order = batches.Order(seed, len(source))
        self._placed: tuple[jax.Array, jax.Array] | None = None
        self._reader, self._next = None, -1

    def steps(self, step: int, count: int) -> Steps:
        """The batches of `count` steps from `step` on (from 0).

        A set that streams is read in order: another step than the next one costs a new
        start of the readers.
        """
        split = parallel.batch_sharding(self.mesh, axis=1)
        start = step * self.batch_size
        places = np.arange(start, start + count * self.batch_size)
        by_step = functools.partial(
            rearrange, pattern="(count batch) -> count batch", count=count
        )
        if self.source.images is not None:
            images, labels = self._resident()
            indices = parallel.place(by_step(self._order.indices(places)), split)
        else:
            if step != self._next:
                self._reader = self._open(step)
            self._next = step + count
            read = [next(self._reader) for _ in range(count)]
            images, labels, indices = (
                jax.make_array_from_process_local_data(split, np.stack(part))
                for part in zip(*read, strict=True)
            )
        return Steps(
            images,
            labels,
            indices,
            parallel.place(by_step(places.astype(np.int32)), split),
            resident=self.source.images is not None,
            mesh=self.mesh,
        )

    def batch(self, step: int) -> Batch:
        """The batch of `step`, for trainers that call several programs for a step."""
        return _first(self.steps(step, 1))

    def local_indices(self, step: int) -> Int32[np.ndarray, "local"]:
        """Which images of the batch of `step` are this process's, on the host.

        For what belongs to images and is read beside them.
        """
        local = self.batch_size // jax.process_count()
        start = step * self.batch_size + jax.process_index() * local
        return self._order.indices(np.arange(start, start + local))

    def _resident(self):
        if self._placed is None:
            whole = parallel.replicated(self.mesh)
            self._placed = (
                parallel.place(self.source.images, whole),
                parallel.place(self.source.labels, whole),
            )
        return self._placed

    def _open(self, step):
        return batches.stream(
            self.source,
            self._order,
            self.batch_size,
            start_step=step,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            threads=self.threads,
        )


@compiler.jit
def _first(steps: Steps) -> Batch:
    return steps.batch(jax.tree.map(lambda leaf: leaf[0], steps.rows()))


def each(
    body: Callable[[Any, Batch], tuple[Any, Any]], state: Any, steps: Steps
) -> tuple[Any, Any]:
    """Runs body(state, batch) -> (state, metrics) for all steps; inside jit.

    Returns the state, sharded as `parallel.state_shardings` has it, and the metrics,
    replicated, with a leading axis of steps.
    """

    def one(state, row):
        return body(state, steps.batch(row))

    rows = steps.rows()
    # One step alone is not wrapped: XLA:CPU runs convolutions in a loop on one thread.
    if len(steps.indices) == 1:
        state, metrics = one(state, jax.tree.map(lambda leaf: leaf[0], rows))
        metrics = jax.tree.map(lambda leaf: leaf[None], metrics)
    else:
        state, metrics = jax.lax.scan(one, state, rows)
    shardings = parallel.state_shardings(steps.mesh, state)
    replicated = parallel.replicated(steps.mesh)
    return parallel.constrain(state, shardings), parallel.constrain(metrics, replicated)
