"""The training loop: restore, dispatch, log, save; stop on a signal or a NaN.

Everything that is trained goes through `fit`: denoisers, fine-tuned networks, noisy
classifiers, the classifier of FID's features, and heads. A `Trainer` says what is
trained, a `Plan` how long and when to do what, a `Hook` what else is measured.
"""

import pathlib
import time
from typing import Protocol, TypeVar

import jax
import numpy as np
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import checkpoint, damage, log
from ddae_jax.train.plan import Hook, Plan
from ddae_jax.train.stopping import StopSignal
from ddae_jax.train.window import Metrics, Window

State = TypeVar("State")

DIVERGED = "diverged.txt"

# Calls whose metrics stay on the device at most, for trainings that are rarely logged.
_MOST_UNREAD = 1024

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


class Trainer(Protocol[State]):
    """What is trained: a state, and what makes steps of it."""

    def create(self) -> State:
        """The state before the first step, on the mesh."""

    def abstract(self) -> State:
        """The same as ShapeDtypeStructs with shardings."""

    def dispatch(self, state: State, step: int, count: int) -> tuple[State, Metrics]:
        """Makes `count` steps from `step` on, in order, and takes the state's memory.

        The result is a function of (state, step) and of what the trainer is made of.

        Returns:
          the state, and the metrics, replicated, with a leading axis of steps.
        """

    def learning_rate(self, step: int) -> float:
        """That of the step after `step`."""

    def input_seconds(self) -> float:
        """For how long the host has made batches, over all dispatches so far."""

    def flops(self) -> float | None:
        """Floating-point operations of a step, asked after the first dispatch; None
        where they are not counted."""


class Diverged(UserError):
    """The loss is not finite any more."""


def peak_flops() -> float | None:
    """Peak rate of all devices together, or None for a device not in the table."""
    kind = jax.devices()[0].device_kind
    for name, flops in PEAK_FLOPS.items():
        if kind.startswith(name):
            return flops * jax.device_count()
    return None


def fit(
    folder: str | pathlib.Path,
    trainer: Trainer[State],
    plan: Plan,
    hooks: tuple[Hook, ...] = (),
) -> State:
    """Trains to plan.steps, from the latest checkpoint in `folder` if there is one.

    A run that was stopped or killed and goes on leaves the parameters and, but for
    times, the metrics of an uninterrupted one.

    Args:
      folder: gets metrics.jsonl, events and checkpoints.
      hooks: are called before the row of metrics is written and the state is saved.

    Returns:
      the last state.

    Raises:
      Diverged: a metric was NaN or infinite; names the step. The last good checkpoint
        stays, and a file DIVERGED says so.
      SystemExit: after SIGTERM with status 0, after Ctrl-C with 130, when the state has
        been saved.
    """
    folder = pathlib.Path(folder)
    damage.tidy(folder / "checkpoints", plan.keep.every)
    with checkpoint.manager(folder, plan.keep) as checkpoints:
        latest = checkpoints.latest_step()
        first = latest or 0
        if first >= plan.steps:
            logging.info("%s: already at step %d of %d", plan.title, first, plan.steps)
        else:
            begins = f"resuming from step {first}" if first else "beginning"
            logging.info("%s: %s; compiling takes a while", plan.title, begins)
        if latest is None:
            state, notes = trainer.create(), {}
        else:
            abstract = trainer.abstract()
            shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
            state = checkpoint.restore(checkpoints, first, abstract, shardings)
            notes = checkpoint.read_notes(checkpoints, first)
        if first >= plan.steps:
            return state
        if jax.process_index() == 0:
            (folder / DIVERGED).unlink(missing_ok=True)
        run = _Run(folder, trainer, plan, hooks, checkpoints, first, notes)
        try:
            with StopSignal() as stopping:
                state = run.go(state, stopping)
                if stopping.noted:  # after the last step, too late for `go`
                    logging.info("stopped by signal after the last step, saved")
                    raise SystemExit(stopping.status)
                return state
        finally:
            run.progress.close()
            run.metrics.close()


class _Run:
    """One call of `fit`."""

    def __init__(self, folder, trainer, plan, hooks, checkpoints, first, notes):
        self.folder, self.trainer, self.plan, self.hooks = folder, trainer, plan, hooks
        self.checkpoints, self.first, self.step = checkpoints, first, first
        # A stopped run saves at once: the hooks of that step are left to the next run.
        self.owed = notes.get("owed", False)
        self.window = Window.from_json(notes.get("window"))
        self.since_save = Window.from_json(notes.get("since_save"))
        self.metrics = log.Metrics(
            folder, first - 1 if self.owed else first, plan.wandb
        )
        self.progress = log.Progress(plan.title, plan.steps, first)
        self.step_flops: float | None = notes.get("step_flops")
        self.flops_asked = False
        self.mark = time.monotonic()  # until when seconds are counted
        self.timing: float | None = None  # since when steps are timed

    def go(self, state, stopping: StopSignal):
        plan = self.plan
        if self.owed:
            self._events(state)
        # What the host reads, it waits for: between events it reads nothing.
        unread: list[tuple[int, int, Metrics]] = []
        while self.step < plan.steps:
            count = plan.count(self.step, self.hooks)
            begun = self.trainer.input_seconds()
            state, new = self.trainer.dispatch(state, self.step, count)
            unread.append((self.step, count, new))
            if len(unread) > _MOST_UNREAD:
                self._collect(unread[:-1])
                del unread[:-1]
            self.step += count
            if self.timing is None:
                jax.block_until_ready(new)
                self.timing = time.monotonic()
                self.progress.begin(self.step)
            else:
                self.window.timed_steps += count
                self.window.input_seconds += self.trainer.input_seconds() - begun
            self.progress.advance(self.step)
            last = self.step == plan.steps
            stop = stopping(self.step, self.checkpoints)
            save = last or plan.checkpoint.due(self.step)
            hooks_due = any(hook.when.due(self.step) for hook in self.hooks)
            events = last or hooks_due or plan.log.due(self.step)
            if not (save or events or stop):
                continue
            self._collect(unread)
            unread = []
            self._count_time()
            self.owed = hooks_due and stop and not last
            if events and not self.owed:
                self._events(state)
            if save or stop:
                self._save(state, scheduled=save)
            if stop:
                self.checkpoints.wait_until_finished()
                logging.info("stopped by signal at step %d, saved", self.step)
                raise SystemExit(stopping.status)
            self.timing = time.monotonic()
        self.checkpoints.wait_until_finished()
        return state

    def _count_time(self) -> None:
        now = time.monotonic()
        self.window.timed_seconds += now - self.timing
        self.window.seconds += now - self.mark
        self.mark = now

    def _collect(self, unread: list[tuple[int, int, Metrics]]) -> None:
        """Merges the steps of calls, and stops where one is not finite."""
        for first, count, metrics in jax.device_get(unread):
            for i in range(count):
                one = jax.tree.map(lambda leaf, i=i: leaf[i], metrics)
                if not all(np.isfinite(metric.total) for metric in one.values()):
                    self._diverged(first + i + 1, one)
                self.window.add(one)
                self.since_save.add({"loss": one["loss"]})

    def _diverged(self, step: int, metrics: Metrics) -> None:
        values = {name: m.total / m.count for name, m in metrics.items() if m.count}
        shown = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in values.items()
            if name in ("loss", "gradient_norm") or not np.isfinite(value)
        )
        latest = self.checkpoints.latest_step()
        kept = "no checkpoint yet" if latest is None else f"step {latest}"
        message = (
            f"{shown} at step {step}: not finite; last good checkpoint: {kept}; "
            f"lower {self.plan.lower}"
        )
        if jax.process_index() == 0:
            (self.folder / DIVERGED).write_text(f"{message}\n")
        raise Diverged(message)

    def _events(self, state) -> None:
        """Calls the hooks that are due, and writes a row of metrics."""
        numbers = {}
        for hook in self.hooks:
            if hook.when.due(self.step):
                found = hook.call(state, self.step)
                numbers |= found.numbers
                for name, picture in found.pictures.items():
                    self.metrics.image(self.step, name, picture)
        now = time.monotonic()
        self.window.seconds += now - self.mark
        self.mark = now
        last = self.step == self.plan.steps
        if not (numbers or last or self.plan.log.due(self.step)):
            return
        values = self.window.means()
        note = ", ".join(
            f"{name} {value:.4f}"
            for name, value in {"loss": values["loss"], **numbers}.items()
        )
        values["learning_rate"] = self.trainer.learning_rate(self.step - 1)
        # Counting takes seconds: a training's first row does not wait for it, that of
        # one that goes on does, for the rows of an uninterrupted one.
        beyond_first = self.window.timed_steps or self.first
        if self.timing is not None and beyond_first and not self.flops_asked:
            self.step_flops, self.flops_asked = self.trainer.flops(), True
        values |= self.window.rates(self.plan.batch_size, self.step_flops, peak_flops())
        if self.step_flops:
            values["flops_per_step"] = self.step_flops
        values |= {**numbers, "seconds": self.window.seconds}
        self.metrics.write(self.step, values)
        self.progress.report(self.step, note)
        self.window = Window()

    def _save(self, state, scheduled: bool) -> None:
        loss = self.since_save.means()["loss"]
        # A checkpoint of a signal ranks by the window it cuts, which goes on.
        if scheduled:
            self.since_save = Window()
        notes = {
            "owed": self.owed,
            "window": self.window.to_json(),
            "since_save": self.since_save.to_json(),
            "step_flops": self.step_flops,
        }
        checkpoint.save(self.checkpoints, self.step, state, loss, notes)
