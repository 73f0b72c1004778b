"""Feeds training steps: resident sets are gathered on the device, others stream."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Int, Int32, Num

from ddae_jax.data import batches
from ddae_jax.data.form import IMAGES, Form
from ddae_jax.data.source import RESIDENT_BYTES, Source
from ddae_jax.runtime import compiler, parallel


@flax.struct.dataclass
class Batch:
    """The images of one step, split over the mesh.

    Attributes:
      images: rows of the set: uint8 images, where `form` says nothing else.
      labels: their classes.
      indices: where they are in the set.
      positions: where they are in the endless order, modulo 2^32: what is drawn for an
        image depends on it.
      rows: name -> the images' rows of an array that belongs to them.
      form: what `images` holds.
    """

    images: Num[Array, "batch *row"]
    labels: Int[Array, "batch"]
    indices: Int[Array, "batch"]
    positions: Int[Array, "batch"]
    rows: Mapping[str, Array] = flax.struct.field(default_factory=dict)
    form: Form = flax.struct.field(pytree_node=False, default=IMAGES)


@flax.struct.dataclass
class Steps:
    """The batches of some steps, as they are given to a compiled function.

    Attributes:
      images: of the whole set where it is resident; else (steps, batch, ...).
      labels: likewise.
      indices, positions: (steps, batch), split over the mesh along the batch.
      beside: name -> array that belongs to the images, likewise.
      resident: whether images and labels are of the whole set.
      beside_resident: whether the arrays beside them are.
      mesh: of the devices.
      form: what the images are.
    """

    images: Array
    labels: Array
    indices: Int[Array, "steps batch"]
    positions: Int[Array, "steps batch"]
    beside: Mapping[str, Array]
    resident: bool = flax.struct.field(pytree_node=False)
    beside_resident: bool = flax.struct.field(pytree_node=False)
    mesh: Mesh = flax.struct.field(pytree_node=False)
    form: Form = flax.struct.field(pytree_node=False)

    def batch(self, row: tuple[Any, ...]) -> Batch:
        """The batch of one row of `rows`; inside a compiled function."""
        indices, positions, beside, *rest = row
        if self.resident:
            rest = self.images[indices], self.labels[indices]
        if self.beside_resident:
            beside = {name: array[indices] for name, array in self.beside.items()}
        found = Batch(*rest, indices, positions, beside, self.form)
        return parallel.constrain(found, parallel.batch_sharding(self.mesh))

    def rows(self) -> tuple[Any, ...]:
        """What differs from step to step, with a leading axis of steps."""
        streamed = () if self.resident else (self.images, self.labels)
        beside = {} if self.beside_resident else self.beside
        return (self.indices, self.positions, beside, *streamed)


class Feed:
    """The batches of a training set: a pure function of (seed, step).

    Attributes:
      source: the training set.
      batch_size: over all devices, a multiple of their number.
      seed: of the order.
      mesh: of the devices.
      threads: that decode sets which are not resident.
      beside: name -> array in the order of the set, whose rows come with the images; it
        may be mapped from a file. Small ones are resident where the images are.
      seconds: for which the host has made batches.
      order: which images are where in the endless order; None: permutation after
        permutation of all.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        mesh: Mesh,
        threads: int = 8,
        beside: Mapping[str, np.ndarray] | None = None,
        order: batches.Positions | None = None,
    ):
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.mesh, self.threads, self.beside = mesh, threads, dict(beside or {})
        need = sum(array.nbytes for array in self.beside.values())
        self._beside_resident = source.images is not None and need <= RESIDENT_BYTES
        self._placed_beside: dict[str, jax.Array] | None = None
        self._order = order or batches.Order(seed, len(source))
        self._placed: tuple[jax.Array, jax.Array] | None = None
        self._reader, self._next = None, -1
        self.seconds = 0.0

    def steps(self, step: int, count: int) -> Steps:
        """The batches of `count` steps from `step` on (from 0).

        A set that streams is read in order: another step than the next one costs a new
        start of the readers.
        """
        begun = time.monotonic()
        found = self._steps(step, count)
        self.seconds += time.monotonic() - begun
        return found

    def _steps(self, step: int, count: int) -> Steps:
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
            self._rows_beside(step, count),
            resident=self.source.images is not None,
            beside_resident=self._beside_resident,
            mesh=self.mesh,
            form=self.source.form,
        )

    def batch_shapes(self) -> Batch:
        """The shapes of a batch as ShapeDtypeStructs, without shardings."""
        of = jax.ShapeDtypeStruct
        number = of((self.batch_size,), np.int32)
        form = self.source.form
        row_shape = form.row_shape(self.source.image_shape)
        images = of((self.batch_size, *row_shape), form.dtype)
        rows = {
            name: of((self.batch_size, *array.shape[1:]), array.dtype)
            for name, array in self.beside.items()
        }
        return Batch(images, number, number, number, rows, form)

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

    def _rows_beside(self, step, count):
        if self._beside_resident:
            if self._placed_beside is None:
                whole = parallel.replicated(self.mesh)
                self._placed_beside = {
                    name: parallel.place(np.asarray(array), whole)
                    for name, array in self.beside.items()
                }
            return self._placed_beside
        split = parallel.batch_sharding(self.mesh, axis=1)
        local = [self.local_indices(number) for number in range(step, step + count)]
        return {
            name: jax.make_array_from_process_local_data(
                split, np.stack([array[indices] for indices in local])
            )
            for name, array in self.beside.items()
        }

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
    body: Callable[[Any, Batch], tuple[Any, Any]],
    state: Any,
    steps: Steps,
    rules: parallel.Rules = (),
) -> tuple[Any, Any]:
    """Runs body(state, batch) -> (state, metrics) for all steps; inside jit.

    Returns the state, sharded as `parallel.state_shardings` has it by `rules`, and the
    metrics, replicated, with a leading axis of steps.
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
    shardings = parallel.state_shardings(steps.mesh, state, rules)
    replicated = parallel.replicated(steps.mesh)
    return parallel.constrain(state, shardings), parallel.constrain(metrics, replicated)
