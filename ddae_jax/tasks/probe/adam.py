"""DDAE's probe protocol: heads trained on features of augmented, noisy images."""

import dataclasses
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data.source import Source
from ddae_jax.features.augmented import augmented_and_noise
from ddae_jax.features.encode import (
    Encode,
    clean_and_noise,
    evaluation_inputs,
    run,
)
from ddae_jax.heads import linear
from ddae_jax.runtime import checkpoint, compiler, parallel
from ddae_jax.tasks.probe.grid import cell_parts
from ddae_jax.train import loop, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed
from ddae_jax.train.optimizers import Adam, CosineAfterWarmup
from ddae_jax.train.plan import Every, Plan, steps_of_epochs
from ddae_jax.train.state import ClassifierState
from ddae_jax.train.window import Metrics, stacked

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
      concat: which features are concatenated, as in `grid.cell_parts`.
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
        folder: str | pathlib.Path,
        params: dict,
        mesh: Mesh,
        source: Source,
        held_out: Bool[np.ndarray, "count"],
        key: PRNGKeyArray,
        seed: int,
        steps_per_dispatch: int = 1,
    ) -> tuple[linear.Heads, linear.Heads]:
        """Trains all heads twice, on the same features: without the held-out images,
        to choose by, and with them.

        Augmentation and noise of an image come from `key` and its place in the endless
        order of `seed`.

        Args:
          folder: of the training: an interrupted one goes on in it.
          params: for `encode`, on the mesh.
          source: is read batch by batch.
          steps_per_dispatch: between looks at signals; the heads are the same.
        """
        count = len(source)
        feed = Feed(source, self.batch_size, seed, mesh, self.threads)
        epoch = Every(steps_of_epochs(1, count, self.batch_size))
        plan = Plan(
            title="heads",
            # Every image is seen `epochs` times at least: the last batch runs over.
            steps=steps_of_epochs(self.epochs, count, self.batch_size),
            batch_size=self.batch_size,
            steps_per_dispatch=steps_per_dispatch,
            log=epoch,
            checkpoint=epoch,
            keep=checkpoint.Keep(latest=1, best=False),
            lower="config.probe.learning_rate",
        )
        state = loop.fit(folder, _Trainer(self, params, feed, held_out, key), plan)
        choosing, final = (
            [column[both][0] for column in state.params] for both in range(2)
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
                heads, self.columns(params, x0, noise), strict=True
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

    def columns(
        self, params: dict, x0: Images, noise: Array
    ) -> Iterator[dict[str, Array]]:
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


class _Trainer:
    """A `loop.Trainer`. Its params: for each column, a list of one `linear.Heads` that
    has not seen the held-out images, and of one that has."""

    def __init__(
        self,
        probe: AdamProbe,
        params: dict,
        feed: Feed,
        held_out: np.ndarray,
        key: PRNGKeyArray,
    ):
        self._probe, self._params, self._feed = probe, params, feed
        self._init_key, self._draw_key = jax.random.split(key)
        self._held_out = parallel.place(held_out, parallel.replicated(feed.mesh))
        count = len(feed.source)
        schedule = CosineAfterWarmup(
            probe.learning_rate, probe.epochs, 0, feed.batch_size, count
        )
        self._optimizer = Adam(schedule, clip_norm=None)
        self._noise_shape = probe.encode.noise_shape(feed.source.image_shape)

    def _init(self):
        probe, feed = self._probe, self._feed
        x0, noise = (
            jax.ShapeDtypeStruct((feed.batch_size, *shape), jnp.float32)
            for shape in (feed.source.image_shape, self._noise_shape)
        )
        time = jax.ShapeDtypeStruct((), jnp.float32)
        taps = jax.eval_shape(probe.encode, self._params, x0, noise, time)
        columns = cell_parts(probe.encode.names, len(probe.times), probe.concat)
        widths = tuple(
            tuple(
                (name, sum(taps[tap].shape[-1] for _, tap in parts))
                for name, parts in column.items()
            )
            for column in columns
        )
        return probe.head, probe.class_count, self._optimizer, widths

    def create(self) -> ClassifierState:
        return _create(*self._init(), self._feed.mesh, self._init_key)

    def abstract(self) -> ClassifierState:
        init = self._init()
        return train_state.abstract(
            lambda key: _first_state(*init, key), self._feed.mesh, self._init_key
        )

    def dispatch(
        self, state: ClassifierState, step: int, count: int
    ) -> tuple[ClassifierState, Metrics]:
        probe, rows = self._probe, []
        columns = [list(column) for column in state.params]
        opt_states = [list(column) for column in state.opt_state]
        for number in range(step, step + count):
            batch = self._feed.batch(number)
            x0, noise = training_inputs(
                batch.images,
                batch.positions,
                self._draw_key,
                probe.flip,
                probe.crop,
                self._noise_shape,
            )
            weights = _weights(self._held_out, batch)
            losses = []
            for i, inputs in enumerate(probe.columns(self._params, x0, noise)):
                for both, weight in enumerate(weights):
                    columns[i][both], opt_states[i][both], loss = linear.update(
                        self._optimizer,
                        columns[i][both],
                        opt_states[i][both],
                        [inputs],
                        batch.labels,
                        weight,
                        probe.head,
                    )
                losses.append(loss / len(inputs))
            rows.append(_mean_loss(losses))
        done = state.step + count  # on the mesh, as all of the state
        return ClassifierState(done, columns, opt_states), stacked(rows)

    def learning_rate(self, step: int) -> float:
        return optimizers.rate_at(self._optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self._feed.seconds

    def flops(self) -> None:
        """Not counted: a step is several programs."""


def _first_state(head, class_count, optimizer, widths, key) -> ClassifierState:
    columns, opt_states = [], []
    for column in widths:
        inputs = {
            name: jax.ShapeDtypeStruct((1, width), jnp.float32)
            for name, width in column
        }
        heads = linear.init_heads(key, [inputs], class_count, head)
        columns.append([heads, jax.tree.map(jnp.copy, heads)])
        opt_states.append([optimizer.init(heads), optimizer.init(heads)])
    return ClassifierState(jnp.int32(0), columns, opt_states)


@compiler.jit(once=True, static_argnums=(0, 1, 2, 3, 4))
def _create(head, class_count, optimizer, widths, mesh, key):
    state = _first_state(head, class_count, optimizer, widths, key)
    return parallel.constrain(state, parallel.state_shardings(mesh, state))


@compiler.jit
def _weights(held_out, batch: Batch) -> list[Float[Array, "batch"]]:
    """Of the heads that choose, and of those that learn from every image."""
    seen = (~held_out[batch.indices]).astype(jnp.float32)
    return [seen, jnp.ones_like(seen)]


@compiler.jit
def _mean_loss(losses) -> Metrics:
    return {"loss": Average.from_model_output(jnp.stack(losses))}


def _cells(outputs: list[dict[str, Array]], concat: str) -> dict[str, Array]:
    """The cells of one column; `outputs` are of the times that it joins."""
    (column,) = cell_parts(tuple(outputs[0]), len(outputs), concat)
    return {
        name: jnp.concatenate([outputs[i][tap] for i, tap in parts], axis=-1)
        for name, parts in column.items()
    }


# Small programs instead of one for a whole step: the forward pass, which is slow to
# compile, is the same for all times and for training and test.


@compiler.jit(static_argnames=("flip", "crop", "shape"))
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
