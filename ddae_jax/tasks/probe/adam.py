"""DDAE's probe protocol: heads trained on features of augmented, noisy images."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import batches
from ddae_jax.data.source import Source
from ddae_jax.features.augmented import augmented_and_noise
from ddae_jax.features.encode import (
    Encode,
    clean_and_noise,
    evaluation_inputs,
    run,
)
from ddae_jax.heads import linear
from ddae_jax.runtime import parallel
from ddae_jax.tasks.probe.grid import cell_parts

Images = Float[Array, "batch height width channels"]


@dataclasses.dataclass(frozen=True)
class AdamProbe:
    """The published protocol; each time costs one forward pass for all its heads.

    Cross-entropy, Adam, a cosine that falls once an epoch to 0, flips and crops, and
    fresh noise for every batch, of which all times see the same draw. Test images get
    noise too, but are not augmented.

    Attributes:
      encode: the features; nothing in it is trained.
      times: the process's own times.
      class_count: of the labels.
      epochs: passes over the training set.
      batch_size: over all devices, a multiple of their number.
      learning_rate: Adam's, for the whole batch.
      flip: mirror training images at random.
      crop: training images are shifted by up to this many pixels; 0 for none.
      threads: that decode training images which are not in memory.
      concat: which features are concatenated, as in `probe_grid.cell_parts`.
      head: what is trained on them.
    """

    encode: Encode
    times: tuple[float, ...]
    class_count: int
    epochs: int = 15
    batch_size: int = 512
    learning_rate: float = 4e-3
    flip: bool = True
    crop: int = 4
    threads: int = 8
    concat: str = ""
    head: linear.Kind = linear.LINEAR

    def fit(
        self,
        params: dict,
        mesh: Mesh,
        source: Source,
        held_out: Bool[np.ndarray, "count"],
        key: PRNGKeyArray,
        seed: int,
    ) -> tuple[linear.Heads, linear.Heads]:
        """Trains all heads twice, on the same features: without the held-out images,
        to choose by, and with them.

        Augmentation and noise of an image come from `key` and its place in the endless
        order of `seed`.

        Args:
          params: for `encode`, replicated over the mesh.
          source: is read batch by batch.
        """
        count = len(source)
        # Every image is seen `epochs` times at least: the last batch runs over.
        steps = -(-self.epochs * count // self.batch_size)
        optimizer = _optimizer(self.learning_rate, self.epochs, self.batch_size, count)
        sharding = parallel.batch_sharding(mesh)
        init_key, draw_key = jax.random.split(key)
        stream = batches.stream(
            source,
            batches.Order(seed, count),
            self.batch_size,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            threads=self.threads if source.images is None else 0,
        )
        # The second set of heads learns from every image.
        masks = (~held_out, np.ones_like(held_out))
        # For each column of the grid both sets: (heads, state of the optimiser).
        trained: list[list] = []
        fresh = None
        for step in range(steps):
            images, labels, indices = next(stream)
            weights = [mask[indices].astype(np.float32) for mask in masks]
            images, labels, *weights = (
                jax.make_array_from_process_local_data(sharding, part)
                for part in (images, labels, *weights)
            )
            start, stop = step * self.batch_size, (step + 1) * self.batch_size
            positions = parallel.place(np.arange(start, stop, dtype=np.int32), sharding)
            shape = self.encode.noise_shape(images.shape[1:])
            x0, noise = training_inputs(
                images, positions, draw_key, self.flip, self.crop, shape
            )
            loss, cells = 0.0, 0
            for i, inputs in enumerate(self._columns(params, x0, noise)):
                if fresh is None:
                    fresh = _create(
                        optimizer,
                        self.class_count,
                        self.head,
                        parallel.replicated(mesh),
                        inputs,
                        init_key,
                    )
                if i == len(trained):
                    # Copies because a step takes the memory of its heads.
                    trained.append([jax.tree.map(jnp.copy, fresh) for _ in masks])
                for both, weight in enumerate(weights):
                    *trained[i][both], loss_here = linear.update(
                        optimizer,
                        *trained[i][both],
                        [inputs],
                        labels,
                        weight,
                        self.head,
                    )
                loss, cells = loss + loss_here, cells + len(inputs)
            if stop // count > start // count:
                logging.info(
                    "probe: epoch %d of %d, loss %.4f",
                    stop // count,
                    self.epochs,
                    float(loss) / cells,
                )
        choosing, final = (
            [column[both][0][0] for column in trained] for both in range(2)
        )
        return choosing, final

    def accuracies(
        self,
        heads: linear.Heads,
        params: dict,
        mesh: Mesh,
        source: Source,
        key: PRNGKeyArray,
    ) -> list[dict[str, float]]:
        """For each time, name of the features -> share of `source` in [0, 1]."""
        totals, names = None, []
        batch = evaluation_inputs(source, mesh, self.batch_size)
        for images, labels, indices, valid in batch:
            shape = self.encode.noise_shape(images.shape[1:])
            x0, noise = clean_and_noise(images, indices, key, shape)
            correct, names = [], []
            for column, inputs in zip(
                heads, self._columns(params, x0, noise), strict=True
            ):
                correct += linear.count_correct(
                    [column], [inputs], labels, valid, self.head
                )
                names.append(list(inputs))
            totals = (
                correct if totals is None else jax.tree.map(jnp.add, totals, correct)
            )
        # A compiled function sorts names; the grid's order is that of depth.
        return [
            {name: int(column[name]) / len(source) for name in in_order}
            for column, in_order in zip(parallel.on_host(totals), names, strict=True)
        ]

    def _columns(self, params, x0, noise) -> Iterator[dict[str, Array]]:
        """Yields the cells of one column of the grid after the other, name -> features.

        A time is encoded when its column comes: the taps of all times, large where they
        are not pooled, need not be there at once.
        """
        joined = self.concat in ("times", "both")
        outputs = []
        for time in self.times:
            outputs.append(run(self.encode, params, x0, noise, time))
            if not joined:
                yield _cells([outputs.pop()], self.concat)
        if joined:
            yield _cells(outputs, self.concat)


# Equal ones are one object, so that compiled steps are shared between fits.
@functools.lru_cache(maxsize=32)
def _optimizer(
    learning_rate, epochs, batch_size, count
) -> optax.GradientTransformation:
    return optax.adam(linear.cosine_per_epoch(learning_rate, epochs, batch_size, count))


@functools.partial(
    jax.jit, static_argnames=("optimizer", "class_count", "head", "sharding")
)
def _create(optimizer, class_count, head, sharding, inputs, key):
    """Heads for the cells of one column, and the optimiser's state, on every device."""
    heads = linear.init_heads(key, [inputs], class_count, head)
    return jax.lax.with_sharding_constraint((heads, optimizer.init(heads)), sharding)


def _cells(outputs: list[dict[str, Array]], concat: str) -> dict[str, Array]:
    """The cells of one column; `outputs` are of the times that it joins."""
    (column,) = cell_parts(tuple(outputs[0]), len(outputs), concat)
    return {
        name: jnp.concatenate([outputs[i][tap] for i, tap in parts], axis=-1)
        for name, parts in column.items()
    }


# Small programs instead of one for a whole step: the forward pass, which is slow to
# compile, is the same for all times and for training and test.


@functools.partial(jax.jit, static_argnames=("flip", "crop", "shape"))
def training_inputs(
    images: UInt8[Array, "batch height width channels"],
    positions: Int[Array, "batch"],
    key: PRNGKeyArray,
    flip: bool,
    crop: int,
    shape: tuple[int, int, int] | None = None,
) -> tuple[Images, Images]:
    """Augmented images in [-1, 1], and noise: a function of key and position.

    The noise of one image has `shape`; None is the image's own.
    """
    shape = shape or images.shape[1:]
    return augmented_and_noise(images, positions, key, flip, crop, shape)
