"""The training loop: restore, dispatch, log, save; stop on a signal or a NaN."""

import dataclasses
import pathlib
import signal
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import checkpoint, compiler, log, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.train import feed as feed_lib
from ddae_jax.train import state as train_state
from ddae_jax.train.state import TrainState
from ddae_jax.train.step import TrainStep, noise_level_names

# Dense bfloat16 peak of one device in FLOP/s, from the makers' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and when to do what; all in optimiser steps.

    Attributes:
      steps: the last step.
      steps_per_dispatch: in one call of the device.
      log_every: one line of metrics, the mean over these steps.
      checkpoint_every: saves, and at the end.
      sample_every: calls of `sample`; 0 for none.
      keep: which checkpoints stay.
    """

    steps: int
    steps_per_dispatch: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    sample_every: int = 0
    keep: checkpoint.Keep = dataclasses.field(default_factory=checkpoint.Keep)


class Diverged(UserError):
    """The loss is not finite any more."""


def peak_flops() -> float | None:
    """Peak rate of all devices together, or None for a device not in the table."""
    kind = jax.devices()[0].device_kind
    for name, flops in PEAK_FLOPS.items():
        if kind.startswith(name):
            return flops * jax.device_count()
    return None


def restore_or_create(
    checkpoints, train_step: TrainStep, feed: feed_lib.Feed
) -> tuple[TrainState, TrainState]:
    """Returns the latest state, or a fresh one; and its shardings.

    No device ever holds a whole state that is to be sharded.
    """
    denoiser, shape = train_step.denoiser, feed.source.image_shape
    init = train_state.create(denoiser, train_step.optimizer, shape)
    key = stream(feed.seed, "train/init")
    shapes = jax.eval_shape(init, key)
    shardings = parallel.state_shardings(feed.mesh, shapes)
    latest = checkpoints.latest_step()
    if latest is None:
        params = train_state.initial_parameters(denoiser, key, shape, shardings.params)
        begin = jax.jit(
            lambda params: train_state.first_state(params, train_step.optimizer),
            out_shardings=shardings,
            compiler_options=compiler.options_for_one_call(),
        )
        return begin(params), shardings
    logging.info("resuming from step %d", latest)
    return checkpoint.restore(checkpoints, latest, shapes, shardings), shardings


def train(
    workdir: str | pathlib.Path,
    train_step: TrainStep,
    feed: feed_lib.Feed,
    plan: Plan,
    sample: Callable[[TrainState], np.ndarray] | None = None,
) -> TrainState:
    """Trains to plan.steps, from the latest checkpoint in `workdir` if there is one.

    Args:
      workdir: gets metrics.jsonl, events and checkpoints.
      train_step: the recipe.
      feed: the data.
      plan: lengths and intervals.
      sample: state -> uint8 picture of samples, for the events.

    Returns:
      the last state.

    Raises:
      Diverged: a loss was NaN or infinite; names the step. The last good checkpoint
        stays.
      SystemExit: after SIGTERM with status 0, after Ctrl-C with 130, when the state has
        been saved.
    """
    with checkpoint.manager(workdir, plan.keep) as checkpoints:
        state, shardings = restore_or_create(checkpoints, train_step, feed)
        first = int(state.step)
        if first >= plan.steps:
            logging.info("already at step %d of %d", first, plan.steps)
            return state
        metrics = log.Metrics(workdir, first)
        progress = log.Progress("pretrain", plan.steps, first)
        run = _Run(workdir, train_step, feed, plan, sample, checkpoints, metrics)
        try:
            with _stop_signal() as stopping:
                return run.go(state, shardings, first, progress, stopping)
        finally:
            progress.close()
            metrics.close()


@dataclasses.dataclass
class _Run:
    workdir: str | pathlib.Path
    train_step: TrainStep
    feed: feed_lib.Feed
    plan: Plan
    sample: Callable | None
    checkpoints: object
    metrics: log.Metrics

    def go(self, state, shardings, first, progress, stopping):
        plan = self.plan
        dispatch = feed_lib.make_dispatch(self.feed, self.train_step, shardings, first)
        window, since_save, began = [], [], None
        step, pending = first, None
        while step < plan.steps:
            count = self._count(step)
            state, new = dispatch(state, step, count)
            step += count
            # Fetch one call behind, so that the device never waits for the host.
            if pending is not None:
                self._collect(pending, window, since_save)
            pending = (step, count, new)
            progress.advance(step)
            last = step == plan.steps
            stop = stopping(step, self.checkpoints)
            save = last or stop or step % plan.checkpoint_every == 0
            if save or step % plan.log_every == 0:
                self._collect(pending, window, since_save)
                pending = None
            if window and (last or stop or step % plan.log_every == 0):
                now = time.monotonic()
                values = self._summary(
                    window, dispatch.step_flops, began and now - began
                )
                self.metrics.write(step, values)
                progress.report(step, f"loss {values['loss']:.4f}")
                window, began = [], now
            if save:
                loss = float(np.mean([row["loss"] for row in since_save]))
                checkpoint.save(self.checkpoints, step, state, loss)
                since_save = []
            if self.sample and plan.sample_every and step % plan.sample_every == 0:
                self.metrics.image(step, "samples", self.sample(state))
                began = time.monotonic()
            if stop and not last:
                self.checkpoints.wait_until_finished()
                logging.info("stopped by signal at step %d, saved", step)
                raise SystemExit(stopping.status)
        self.checkpoints.wait_until_finished()
        return state

    def _count(self, step: int) -> int:
        """Steps of the next call: no further than the next event."""
        plan = self.plan
        ends = [plan.steps, step + plan.steps_per_dispatch]
        for every in (plan.log_every, plan.checkpoint_every, plan.sample_every):
            if every:
                ends.append((step // every + 1) * every)
        return min(ends) - step

    def _collect(self, pending, window, since_save):
        end, count, values = pending
        values = jax.device_get(values)
        for i in range(count):
            row = {key: value[i] for key, value in values.items()}
            if not np.isfinite(row["loss"]) or not np.isfinite(row["gradient_norm"]):
                step = end - count + i + 1
                latest = self.checkpoints.latest_step()
                kept = "no checkpoint yet" if latest is None else f"step {latest}"
                raise Diverged(
                    f"loss {row['loss']:.4g}, gradient norm "
                    f"{row['gradient_norm']:.4g} at step {step}: not finite; last good "
                    f"checkpoint: {kept}; lower train.learning_rate"
                )
            window.append(row)
            since_save.append(row)

    def _summary(self, window, flops, seconds):
        scalars = ("loss", "gradient_norm", "parameter_norm", "update_norm")
        values = {key: float(np.mean([row[key] for row in window])) for key in scalars}
        sums = np.sum([row["loss_sums"] for row in window], axis=0)
        counts = np.sum([row["loss_counts"] for row in window], axis=0)
        for name, total, count in zip(noise_level_names(), sums, counts, strict=True):
            if count:
                values[f"loss/{name}"] = float(total / count)
        # The first window holds the compilation: it has no rate.
        if seconds:
            per_step = seconds / len(window)
            values["seconds_per_step"] = per_step
            values["images_per_second"] = self.feed.batch_size / per_step
            peak = peak_flops()
            if flops and peak:
                values["peak_share"] = flops / per_step / peak
        if flops:
            values["flops_per_step"] = flops
        return values


class _stop_signal:
    """Notes SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once.

    With several processes, jax agrees on a common step to stop at after SIGTERM.
    """

    def __enter__(self):
        self.status: int | None = None  # to exit with
        self._old = {}
        # Signals reach the main thread, which alone may ask for them.
        main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and main_thread:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if number == signal.SIGINT:
            signal.signal(number, self._old[number])
        self.status = 130 if number == signal.SIGINT else 0

    def __call__(self, step, checkpoints) -> bool:
        """Whether to save and stop after `step`."""
        if jax.process_count() > 1:
            self.status = 0
            return checkpoints.reached_preemption(step)
        return self.status is not None
