"""Trains and tests one classifier of noisy images: resumable, split over devices."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddae_jax.data.source import Source
from ddae_jax.features.augmented import augmented_and_noise
from ddae_jax.features.encode import clean_and_noise, evaluation_inputs
from ddae_jax.runtime import checkpoint, compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.tasks.noisy_classifier import classifier as heads
from ddae_jax.tasks.noisy_classifier.classifier import NoisyClassifier
from ddae_jax.train import loop, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Feed
from ddae_jax.train.optimizers import Optimizer
from ddae_jax.train.plan import Every, Plan
from ddae_jax.train.state import ClassifierState
from ddae_jax.train.window import Metrics, stacked

_WAITING = 4  # counts that the devices are still at, while the host goes on


@dataclasses.dataclass(frozen=True)
class Training:
    """How one classifier is trained and tested.

    Every batch is a function of (seed, step): a run that was interrupted goes on as
    if it had not been, and devices do not enter. Images and noise of an example come
    from its place in the endless order; its time from the step.

    Attributes:
      classifier: what is trained.
      optimizer: with its schedule.
      mesh: of the devices.
      steps: optimiser steps in all.
      batch_size: over all devices, a multiple of their number; of the test as well.
      flip: mirror training images at random.
      crop: training images are shifted by up to this many pixels; 0 for none.
      seed: of the order and of all draws.
      learning_rate_field: what to lower where the loss diverges.
      threads: that decode training images which are not in memory.
      log_every: steps between lines of metrics.
      checkpoint_every: steps between checkpoints; there is one at the end, too.
      steps_per_dispatch: between looks at signals.
    """

    classifier: NoisyClassifier
    optimizer: Optimizer
    mesh: Mesh
    steps: int
    batch_size: int
    flip: bool
    crop: int
    seed: int
    learning_rate_field: str
    threads: int = 8
    log_every: int = 50
    checkpoint_every: int = 1000
    steps_per_dispatch: int = 1

    def fit(self, folder: pathlib.Path, fixed: dict, source: Source) -> ClassifierState:
        """Trains to `steps`, from the latest checkpoint of `folder` on: `loop.fit`.

        Args:
          fixed: parameters of the classifier's `encode`, on the mesh.
        """
        plan = Plan(
            title=self.classifier.name,
            steps=self.steps,
            batch_size=self.batch_size,
            steps_per_dispatch=self.steps_per_dispatch,
            log=Every(self.log_every),
            checkpoint=Every(self.checkpoint_every),
            keep=checkpoint.Keep(latest=1, best=False),
            lower=self.learning_rate_field,
        )
        feed = Feed(source, self.batch_size, self.seed, self.mesh, self.threads)
        return loop.fit(folder, _Trainer(self, fixed, feed), plan)

    def accuracies(
        self,
        params: dict,
        fixed: dict,
        source: Source,
        times: Sequence[float],
    ) -> list[float]:
        """For each of the process's own `times`, the share of `source` in [0, 1].

        Image i gets the noise of (seed, i), the same at all times and for every
        classifier; nothing is augmented.

        Args:
          params: of the classifier's network, replicated over the mesh.
          fixed: as for `fit`.
        """
        key = stream(self.seed, "noisy_classifier/test_noise")
        sharding = parallel.batch_sharding(self.mesh)
        shape = self.classifier.noise_shape(source.image_shape)
        points = []
        for time in times:
            vector = np.full(self.batch_size, time, np.float32)
            condition = np.asarray(self.classifier.condition(jnp.asarray(vector)))
            points.append([parallel.place(v, sharding) for v in (vector, condition)])
        totals, waiting = np.zeros(len(times), int), []
        inputs = evaluation_inputs(source, self.mesh, self.batch_size)
        for images, labels, indices, valid in inputs:
            x0, noise = clean_and_noise(images, indices, key, shape)
            for number, (time, condition) in enumerate(points):
                seen = _inputs(self.classifier, fixed, x0, noise, time)
                count = _count(self.classifier, params, seen, condition, labels, valid)
                waiting.append((number, count))
                # Several CPU devices hang where more than 32 programs wait for them.
                if len(waiting) > _WAITING:
                    _add(totals, *waiting.pop(0))
        for one in waiting:
            _add(totals, *one)
        return [int(total) / len(source) for total in totals]

    def input_shape(
        self, fixed: dict, image_shape: tuple[int, int, int]
    ) -> tuple[int, ...]:
        """Shape of what the network sees of one image."""
        arrays = (
            jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            for shape in (image_shape, self.classifier.noise_shape(image_shape), ())
        )
        return jax.eval_shape(self.classifier.inputs, fixed, *arrays).shape[1:]


def _add(totals: np.ndarray, number: int, count: jax.Array) -> None:
    totals[number] += int(parallel.on_host(count))


class _Trainer:
    """A `Training` as a `loop.Trainer`."""

    def __init__(self, training: Training, fixed: dict, feed: Feed):
        self._training, self._fixed, self._feed = training, fixed, feed
        shape = training.input_shape(fixed, feed.source.image_shape)
        self._init = (training.classifier, training.optimizer, tuple(shape))
        self._draws = stream(training.seed, "noisy_classifier/draws")

    def create(self) -> ClassifierState:
        key = stream(self._training.seed, "noisy_classifier/init")
        return _create(*self._init, self._feed.mesh, key)

    def abstract(self) -> ClassifierState:
        init, mesh = heads.create(*self._init), self._feed.mesh
        return train_state.abstract(init, mesh, jax.random.key(0))

    def dispatch(
        self, state: ClassifierState, step: int, count: int
    ) -> tuple[ClassifierState, Metrics]:
        training, rows = self._training, []
        classifier, mesh = training.classifier, training.mesh
        for number in range(step, step + count):
            batch = self._feed.batch(number)
            augmentation = (training.flip, training.crop)
            drawn = _draw(classifier, augmentation, mesh, batch, number, self._draws)
            x0, noise, time, condition = drawn
            inputs = _inputs(classifier, self._fixed, x0, noise, time)
            state, metrics = _update(
                classifier,
                training.optimizer,
                mesh,
                state,
                inputs,
                condition,
                batch.labels,
            )
            rows.append(metrics)
        return state, stacked(rows)

    def learning_rate(self, step: int) -> float:
        return optimizers.rate_at(self._training.optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self._feed.seconds

    def flops(self) -> None:
        """Not counted: a step is several programs."""


# Small programs instead of one for a whole step: the forward pass of a denoiser, which
# is slow to compile, is the same for training and test.


@compiler.jit(once=True, static_argnums=(0, 1, 2, 3))
def _create(classifier, optimizer, shape, mesh, key):
    state = heads.create(classifier, optimizer, shape)(key)
    return parallel.constrain(state, parallel.state_shardings(mesh, state))


@compiler.jit(static_argnames=("classifier", "augmentation", "mesh"))
def _draw(classifier, augmentation, mesh, batch, step, key):
    image_key, time_key = jax.random.split(key)
    images = batch.images
    x0, noise = augmented_and_noise(
        images,
        batch.positions,
        image_key,
        *augmentation,
        classifier.noise_shape(images.shape[1:]),
    )
    time = classifier.draw_times(jax.random.fold_in(time_key, step), len(images))
    drawn = (x0, noise, time, classifier.condition(time))
    return parallel.constrain(drawn, parallel.batch_sharding(mesh))


@compiler.jit(static_argnames=("classifier",))
def _inputs(classifier, fixed, x0, noise, time):
    return classifier.inputs(fixed, x0, noise, time)


@compiler.jit(
    static_argnames=("classifier", "optimizer", "mesh"), donate_argnames=("state",)
)
def _update(classifier, optimizer, mesh, state, inputs, condition, labels):
    state, metrics = heads.update(
        classifier, optimizer, state, inputs, condition, labels
    )
    state = parallel.constrain(state, parallel.state_shardings(mesh, state))
    return state, parallel.constrain(metrics, parallel.replicated(mesh))


@compiler.jit(static_argnames=("classifier",))
def _count(classifier, params, inputs, condition, labels, valid):
    return heads.count_correct(classifier, params, inputs, condition, labels, valid)
