"""Trains and tests one classifier of noisy images: resumable, split over devices."""

import dataclasses
import functools
import pathlib
import time as clock
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ddae_jax.data import augment, batches
from ddae_jax.data.source import Source
from ddae_jax.features.encode import evaluation_inputs, example_noise
from ddae_jax.runtime import checkpoint, compiler, log, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.tasks.noisy_classifier import classifier as heads
from ddae_jax.tasks.noisy_classifier.classifier import ClassifierState, NoisyClassifier
from ddae_jax.tasks.probe.adam import training_inputs
from ddae_jax.train.loop import Diverged


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
    """

    classifier: NoisyClassifier
    optimizer: optax.GradientTransformation
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

    def fit(self, folder: pathlib.Path, fixed: dict, source: Source) -> ClassifierState:
        """Trains to `steps`, from the latest checkpoint of `folder` on.

        Writes checkpoints, metrics.jsonl and events into `folder`.

        Args:
          fixed: parameters of the classifier's `encode`, replicated over the mesh.

        Raises:
          Diverged: the loss is not finite; names the step. The last good checkpoint
            stays.
        """
        keep = checkpoint.Keep(latest=1, best=False)
        with checkpoint.manager(folder, keep) as checkpoints:
            shape = self.input_shape(fixed, source.image_shape)
            state = self._restore_or_create(checkpoints, shape)
            first = int(state.step)
            if first >= self.steps:
                return state
            metrics = log.Metrics(folder, first)
            progress = log.Progress(self.classifier.name, self.steps, first)
            try:
                return self._run(
                    state, first, fixed, source, checkpoints, metrics, progress
                )
            finally:
                progress.close()
                metrics.close()

    def _run(self, state, first, fixed, source, checkpoints, metrics, progress):
        key = stream(self.seed, "noisy_classifier/draws")
        sharding = parallel.batch_sharding(self.mesh)
        reader = batches.stream(
            source,
            batches.Order(self.seed, len(source)),
            self.batch_size,
            start_step=first,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
            threads=self.threads if source.images is None else 0,
        )
        window, began = [], clock.monotonic()
        for step in range(first, self.steps):
            images, labels = (
                jax.make_array_from_process_local_data(sharding, part)
                for part in next(reader)[:2]
            )
            start = step * self.batch_size
            places = np.arange(start, start + self.batch_size, dtype=np.int32)
            x0, noise, time, condition = self._draw(
                images, parallel.place(places, sharding), np.int32(step), key
            )
            inputs = self._inputs(fixed, x0, noise, time)
            state, values = self._update(state, inputs, condition, labels)
            window.append(values)
            # One step behind, so that the device works while the next one is read.
            jax.block_until_ready(window[-2:-1])
            done = step + 1
            progress.advance(done)
            save = done == self.steps or done % self.checkpoint_every == 0
            if save or done % self.log_every == 0:
                means = self._means(done, window, checkpoints)
                now = clock.monotonic()
                metrics.write(done, means | {"seconds": now - began})
                began = now
                progress.report(done, f"loss {means['loss']:.4f}")
                window = []
            if save:
                checkpoint.save(checkpoints, done, state, means["loss"])
        checkpoints.wait_until_finished()
        return state

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
        shape = self._noise_shape(source.image_shape)
        points = []
        for time in times:
            vector = np.full(self.batch_size, time, np.float32)
            condition = np.asarray(self.classifier.condition(jnp.asarray(vector)))
            points.append([parallel.place(v, sharding) for v in (vector, condition)])
        totals, waiting = np.zeros(len(times), int), []
        inputs = evaluation_inputs(source, self.mesh, self.batch_size)
        for images, labels, indices, valid in inputs:
            x0, noise = _test_inputs(images, indices, key, shape)
            waiting.append(
                [
                    self._count(
                        params,
                        self._inputs(fixed, x0, noise, time),
                        condition,
                        labels,
                        valid,
                    )
                    for time, condition in points
                ]
            )
            if len(waiting) > 1:
                totals += np.array(parallel.on_host(waiting.pop(0)))
        totals += np.array(parallel.on_host(waiting.pop(0)))
        return [int(total) / len(source) for total in totals]

    def input_shape(
        self, fixed: dict, image_shape: tuple[int, int, int]
    ) -> tuple[int, ...]:
        """Shape of what the network sees of one image."""
        arrays = (
            jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            for shape in (image_shape, self._noise_shape(image_shape), ())
        )
        return jax.eval_shape(self.classifier.inputs, fixed, *arrays).shape[1:]

    def _noise_shape(self, image_shape):
        if self.classifier.encode is None:
            return tuple(image_shape)
        return self.classifier.encode.noise_shape(image_shape)

    def _restore_or_create(self, checkpoints, shape) -> ClassifierState:
        init = heads.create(self.classifier, self.optimizer, shape)
        key = stream(self.seed, "noisy_classifier/init")
        shapes = jax.eval_shape(init, key)
        shardings = jax.tree.map(lambda _: parallel.replicated(self.mesh), shapes)
        latest = checkpoints.latest_step()
        if latest is not None:
            return checkpoint.restore(checkpoints, latest, shapes, shardings)
        create = jax.jit(
            init,
            out_shardings=shardings,
            compiler_options=compiler.options_for_one_call(),
        )
        return create(key)

    def _means(self, done, window, checkpoints) -> dict[str, float]:
        rows = jax.device_get(window)
        for i, row in enumerate(rows):
            if not np.isfinite(row["loss"]):
                latest = checkpoints.latest_step()
                kept = "no checkpoint yet" if latest is None else f"step {latest}"
                raise Diverged(
                    f"noisy_classifier, {self.classifier.name}: loss {row['loss']:.4g} "
                    f"at step {done - len(rows) + i + 1}: not finite; last good "
                    f"checkpoint: {kept}; lower {self.learning_rate_field}"
                )
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    # Small programs instead of one for a whole step: the forward pass of a denoiser,
    # which is slow to compile, is the same for training and test.

    @functools.cached_property
    def _draw(self):
        split = parallel.batch_sharding(self.mesh)

        def draw(images, places, step, key):
            image_key, time_key = jax.random.split(key)
            x0, noise = training_inputs(
                images,
                places,
                image_key,
                self.flip,
                self.crop,
                self._noise_shape(images.shape[1:]),
            )
            time = self.classifier.draw_times(
                jax.random.fold_in(time_key, step), len(images)
            )
            return x0, noise, time, self.classifier.condition(time)

        return jax.jit(draw, out_shardings=split)

    @functools.cached_property
    def _inputs(self):
        return jax.jit(
            lambda *arrays: self.classifier.inputs(*arrays),
            compiler_options=compiler.compiler_options(),
        )

    @functools.cached_property
    def _update(self):
        return jax.jit(
            functools.partial(heads.update, self.classifier, self.optimizer),
            donate_argnums=0,
            out_shardings=parallel.replicated(self.mesh),
            compiler_options=compiler.compiler_options(),
        )

    @functools.cached_property
    def _count(self):
        return jax.jit(
            functools.partial(heads.count_correct, self.classifier),
            compiler_options=compiler.compiler_options(),
        )


@functools.partial(jax.jit, static_argnames="shape")
def _test_inputs(images, indices, key, shape):
    return augment.to_float(images), example_noise(key, indices, shape)
