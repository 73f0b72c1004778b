"""What a run writes while it works: metrics.jsonl, TensorBoard events, progress."""

import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from rich import console
from rich import progress as rich_progress

from ddae_jax.runtime.copy_notes import as_given
from ddae_jax.runtime.files import NO_SPACE, disk_is_full, replacing
from ddae_jax.runtime.wandb_log import WandbRun

FILE = "metrics.jsonl"
_SECONDS = 15  # of silence that nobody minds


def to_stderr() -> None:
    """Shows what we log, and of libraries what goes wrong."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.set_stderrthreshold("info")
    logging.get_absl_handler().addFilter(_is_shown)
    logging.get_absl_handler().addFilter(_with_urls)


def _is_shown(record) -> bool:
    if "ddae_jax" in record.pathname:
        return True
    if record.levelno < logging.logging.ERROR:
        return False
    # A full disk is told in one line, by main.
    error = record.exc_info[1] if record.exc_info else None
    return not (disk_is_full(error) or NO_SPACE in record.getMessage())


def _with_urls(record) -> bool:
    text = record.getMessage()
    given = as_given(text)
    if given != text:
        record.msg, record.args = given, ()
    return True


def _summary_writer() -> type:
    """tensorboardX's, without torch: where that is installed, it takes seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # an import of it raises ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class Metrics:
    """Appends scalars to metrics.jsonl and to TensorBoard events; process 0 alone.

    A resumed run drops the lines after the step that it resumes from, so that every
    step stands there once.
    """

    def __init__(self, workdir: str | pathlib.Path, first_step: int, wandb: str = ""):
        """Opens the files.

        Args:
          wandb: a project of Weights & Biases that gets the same; empty for none.
        """
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        path = pathlib.Path(workdir) / FILE
        kept = [row for row in read_metrics(workdir) if row["step"] <= first_step]
        with replacing(path) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a")
        self._events = _summary_writer()(
            str(pathlib.Path(workdir) / "events"), purge_step=first_step + 1
        )
        self._wandb = WandbRun(pathlib.Path(workdir), wandb) if wandb else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line; values that are not finite become null."""
        if not self._writes:
            return
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {key: float(f"{value:.6g}") for key, value in values.items()}
        row = {key: value if np.isfinite(value) else None for key, value in row.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in values.items():
            self._events.add_scalar(key, value, step)
        if self._wandb:
            self._wandb.write(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a uint8 (height, width, channels) image to the events."""
        if self._writes:
            self._events.add_image(name, image, step, dataformats="HWC")
        if self._writes and self._wandb:
            self._wandb.image(step, name, image)

    def close(self) -> None:
        """Flushes the files, and ends the run of Weights & Biases."""
        if self._writes and self._wandb:
            self._wandb.close()
        if self._writes:
            self._file.close()
            self._events.close()


def read_metrics(workdir: str | pathlib.Path) -> list[dict]:
    """Returns the lines of metrics.jsonl; one cut short by a crash is left out."""
    path = pathlib.Path(workdir) / FILE
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Progress:
    """A bar with the time left on a terminal or in a notebook; else a log line at
    every report."""

    def __init__(self, title: str, total: int, done: int = 0):
        terminal = console.Console(stderr=True)
        self._title, self._total, self._start = title, total, done
        self._began = self._told = time.monotonic()
        self._bar = None
        shown = terminal.is_terminal or terminal.is_jupyter
        if jax.process_index() == 0 and shown:
            self._bar = rich_progress.Progress(
                *rich_progress.Progress.get_default_columns(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("{task.fields[note]}"),
                console=terminal,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")
            self._bar.start()

    def begin(self, done: int) -> None:
        """Counts the time left from now on: what came before says nothing of it."""
        self._start, self._began = done, time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, completed=done, note="")

    def advance(self, done: int) -> None:
        """Moves the bar to `done`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def tick(self, done: int, note: str) -> None:
        """`report`, but no log line within _SECONDS of the one before."""
        if self._bar is not None or time.monotonic() - self._told >= _SECONDS:
            self.report(done, note)

    def report(self, done: int, note: str) -> None:
        """Shows `note` beside the bar, or logs it with the time left."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        self._told = time.monotonic()
        elapsed = self._told - self._began
        left = elapsed / max(done - self._start, 1) * (self._total - done)
        logging.info(
            "%s %d/%d, %s left: %s", self._title, done, self._total, _clock(left), note
        )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def told(
    title: str, total: int, batches: Iterable[tuple[int, Any]]
) -> Iterator[tuple[int, Any]]:
    """Passes batches on, (index of the first image, what is of it), and tells how many
    of `total` images are done."""
    progress = None
    for first, content in batches:
        # The first batch compiles: what comes before it says nothing of the rest.
        progress = progress or Progress(title, total, first)
        progress.tick(first, "images")
        yield first, content
    if progress is not None:
        progress.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
