"""Which images make up a batch: a pure function of (seed, step).

Training walks through the endless concatenation of the epochs' permutations; batch
`step` is its positions step * B to (step + 1) * B. Nothing is dropped at the end of an
epoch, and the number of hosts does not enter: a host reads its slice of each batch.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import grain
import numpy as np
from jaxtyping import Bool, Int, Int32, Num

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError

_ENDLESS = 1 << 48
_KEPT = 4  # permutations


class Positions(Protocol):
    """An endless order of images."""

    def indices(
        self, positions: Int[np.ndarray, "batch"]
    ) -> Int32[np.ndarray, "batch"]:
        """Returns which images are at `positions` of it."""


@dataclasses.dataclass(frozen=True)
class Order:
    """The endless order in which a training set of `count` images is visited.

    The permutations last used are kept, so that asking for batch after batch costs one
    permutation per epoch.
    """

    seed: int
    count: int
    _kept: dict[int, np.ndarray] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self):
        if self.seed < 0 or self.count < 1:
            raise UserError(
                f"seed {self.seed} must not be negative, and {self.count} images must "
                "be at least 1"
            )

    def permutation(self, epoch: int) -> Int32[np.ndarray, "count"]:
        """Returns the order of one epoch."""
        found = self._kept.get(epoch)
        if found is None:
            found = self._kept[epoch] = _permutation(self.seed, self.count, epoch)
            # A batch that straddles epochs needs two; readers ahead may be one further.
            for old in list(self._kept)[:-_KEPT]:
                self._kept.pop(old, None)  # another thread may have been quicker
        return found

    def indices(
        self, positions: Int[np.ndarray, "batch"]
    ) -> Int32[np.ndarray, "batch"]:
        """Returns which images are at `positions` of the endless order."""
        epochs, places = np.divmod(np.asarray(positions, np.int64), self.count)
        result = np.empty(len(places), np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self.permutation(int(epoch))[places[here]]
        return result

    def batch(self, step: int, batch_size: int) -> Int32[np.ndarray, "batch"]:
        """Returns the images of the global batch of optimiser step `step` (from 0)."""
        return self.indices(np.arange(step * batch_size, (step + 1) * batch_size))


def evaluation_batches(
    count: int, batch_size: int
) -> Iterator[tuple[Int32[np.ndarray, "batch"], Bool[np.ndarray, "batch"]]]:
    """Yields (indices, valid) over 0..count-1 in order, all of one size.

    The last batch is filled up with the last image, marked as not valid.
    """
    for start in range(0, count, batch_size):
        positions = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.minimum(positions, count - 1), positions < count


def stream(
    source: Source,
    order: Positions,
    batch_size: int,
    start_step: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 8,
    prefetch: int = 8,
) -> Iterator[
    tuple[
        Num[np.ndarray, "local *row"],
        Int32[np.ndarray, "local"],
        Int32[np.ndarray, "local"],
    ]
]:
    """Yields this host's slice (rows, labels, indices) of every batch, without end.

    Starting at a step gives what a run from 0 gives there.

    Args:
      batch_size: the global one; each host reads batch_size / shard_count images.
      threads: how many batches are decoded at a time; 0 decodes in the caller.
      prefetch: how many batches are kept ready.
    """
    if batch_size % shard_count or not 0 <= shard_index < shard_count:
        raise UserError(
            f"global batch size {batch_size} cannot be split: shard {shard_index} of "
            f"{shard_count}"
        )
    local = batch_size // shard_count

    def read(step):
        start = step * batch_size + shard_index * local
        indices = order.indices(np.arange(start, start + local))
        return source.read_rows(indices), source.labels[indices], indices

    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(prefetch, threads)
    )
    steps = grain.MapDataset.range(start_step, start_step + _ENDLESS)
    return iter(steps.map(read).to_iter_dataset(options))


def _permutation(seed: int, count: int, epoch: int) -> Int32[np.ndarray, "count"]:
    generator = np.random.Generator(np.random.Philox([seed, epoch]))
    permutation = generator.permutation(count).astype(np.int32)
    permutation.flags.writeable = False
    return permutation
