"""The loop of fine-tuning: restore, train, measure, log, save."""

import dataclasses
import pathlib
import time as clock
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from ddae_jax.data import batches
from ddae_jax.data.source import Source
from ddae_jax.runtime import checkpoint, compiler, log, parallel
from ddae_jax.tasks.finetune.step import FinetuneStep
from ddae_jax.train.loop import Diverged
from ddae_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train on what, and when to measure.

    Attributes:
      source: the training set.
      batch_size: over all devices, a multiple of their number.
      epochs: passes over the source; the last batch runs over.
      eval_every: epochs between measurements, each with a checkpoint.
      seed: of the order of the images.
      threads: that decode images which are not in memory.
    """

    source: Source
    batch_size: int
    epochs: int
    eval_every: int
    seed: int
    threads: int = 8

    def steps_after(self, epoch: int) -> int:
        """Optimiser steps until every image has been seen `epoch` times."""
        return -(-epoch * len(self.source) // self.batch_size)

    @property
    def marks(self) -> dict[int, int]:
        """Step -> epoch, of every measurement, ascending; the last is the end."""
        epochs = [*range(self.eval_every, self.epochs, self.eval_every), self.epochs]
        return {self.steps_after(epoch): epoch for epoch in epochs}


def fit(
    folder: str | pathlib.Path,
    recipe: FinetuneStep,
    plan: Plan,
    mesh: Mesh,
    network: dict,
    autoencoder: dict | None,
    accuracy: Callable[[dict], float],
    schedule: Callable,
    key: PRNGKeyArray,
) -> TrainState:
    """Trains to the last epoch, from the latest checkpoint in `folder` if there is one.

    A batch and all that is drawn for it depend on (plan.seed, key, step) alone: a run
    that was killed and goes on is bitwise the uninterrupted one.

    Args:
      folder: gets checkpoints, events and metrics.jsonl, one line a measurement, with
        test_accuracy (of the EMA) and test_accuracy_raw.
      network: initial parameters that the tap depends on.
      accuracy: parameters -> share of the test images in [0, 1].
      schedule: of the learning rate, to log it.

    Raises:
      Diverged: a loss was NaN or infinite; names the step.
    """
    init_key, draw_key = jax.random.split(key)
    shape = plan.source.image_shape

    def begin(network, key):
        return recipe.create(network, key, shape)

    shapes = jax.eval_shape(begin, network, init_key)
    shardings = parallel.state_shardings(mesh, shapes)
    keep = checkpoint.Keep(latest=2, best=False)
    with checkpoint.manager(folder, keep) as checkpoints:
        latest = checkpoints.latest_step()
        if latest is None:
            once = compiler.options_for_one_call()
            start = jax.jit(begin, out_shardings=shardings, compiler_options=once)
            state, first = start(network, init_key), 0
        else:
            logging.info("finetune: resuming from step %d", latest)
            state = checkpoint.restore(checkpoints, latest, shapes, shardings)
            first = latest
        train = jax.jit(
            recipe,
            donate_argnums=0,
            out_shardings=(shardings, parallel.replicated(mesh)),
            compiler_options=compiler.compiler_options(),
        )
        inputs = _inputs(plan, mesh, first)
        compiled = False
        metrics = log.Metrics(folder, first)
        progress = log.Progress("finetune", max(plan.marks), first)
        try:
            for mark, epoch in plan.marks.items():
                if mark <= first:
                    continue
                began = clock.monotonic()
                rows = []
                for step in range(first, mark):
                    images, labels = next(inputs)
                    state, new = train(state, autoencoder, images, labels, draw_key)
                    rows.append(new)
                    # One step behind, so that the device never waits for the host.
                    if len(rows) > 1:
                        _check(rows, -2, step)
                    progress.advance(step + 1)
                _check(rows, -1, mark)
                values = _means(rows) | {"epoch": epoch}
                # The first window holds the compilation: it has no rate.
                if compiled:
                    seconds = clock.monotonic() - began
                    rate = len(rows) * plan.batch_size / seconds
                    values["images_per_second"] = rate
                compiled = True
                values |= {
                    "learning_rate": float(schedule(jnp.int32(mark - 1))),
                    "test_accuracy": accuracy(state.ema),
                    "test_accuracy_raw": accuracy(state.params),
                }
                values["seconds"] = clock.monotonic() - began
                metrics.write(mark, values)
                note = f"loss {values['loss']:.4f}, test {values['test_accuracy']:.4f}"
                progress.report(mark, note)
                checkpoint.save(checkpoints, mark, state, values["loss"])
                first = mark
            checkpoints.wait_until_finished()
        finally:
            progress.close()
            metrics.close()
    return state


def _inputs(plan: Plan, mesh: Mesh, first_step: int):
    sharding = parallel.batch_sharding(mesh)
    stream = batches.stream(
        plan.source,
        batches.Order(plan.seed, len(plan.source)),
        plan.batch_size,
        start_step=first_step,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        threads=plan.threads if plan.source.images is None else 0,
    )
    for images, labels, _ in stream:
        yield tuple(
            jax.make_array_from_process_local_data(sharding, part)
            for part in (images, labels)
        )


def _check(rows: list[dict], place: int, step: int) -> None:
    """Brings a row to the host. `step` counts from 1."""
    rows[place] = {name: float(value) for name, value in rows[place].items()}
    if not np.isfinite(list(rows[place].values())).all():
        loss, norm = rows[place]["loss"], rows[place]["gradient_norm"]
        raise Diverged(
            f"loss {loss:.4g}, gradient norm {norm:.4g} at step {step}: not finite; "
            "lower config.finetune.learning_rate"
        )


def _means(rows: list[dict]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
