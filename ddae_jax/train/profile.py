"""Traces some steps of a training, and tells where the time went."""

import json
import pathlib
import re
import time
from typing import Protocol

import jax
from absl import logging

from ddae_jax.runtime import trace
from ddae_jax.train.loop import Metrics, State, Trainer

_WARM_UP = 2  # calls of the device
_METADATA_IN_KEY = "jax_compilation_cache_include_metadata_in_key"
_LARGEST = 20  # operations in the table

_LINEAR = re.compile(r"dot_general|^(linear|mlp|modulation|embedding|augment)")

KINDS = (
    ("optimiser", re.compile(r"^optimiser$")),
    ("attention", re.compile(r"attention")),
    ("random numbers", re.compile(r"Dropout|threefry|_normal|_uniform|_bernoulli")),
    ("normalisation", re.compile(r"norm", re.IGNORECASE)),
    ("convolution", re.compile(r"conv")),
    ("linear", _LINEAR),
    ("activation", re.compile(r"silu|gelu")),
)
"""Kind of layer -> pattern of a part of a scope; the first that fits counts."""


class Traceable(Trainer[State], Protocol[State]):
    """A trainer whose steps are one program."""

    def program(self) -> str:
        """The text of the compiled program of the first dispatch."""


def kind_of(scope: str) -> str:
    """The kind of layer of an operation, by jax's scopes and flax's modules.

    A fusion stands where its last operation does: an activation may count for the layer
    before it or after it.
    """
    parts = re.split(r"[/()]", scope)
    for kind, pattern in KINDS:
        if any(pattern.search(part) for part in parts):
            return kind
    return "other"


class Profiled:
    """A trainer of which some steps are traced; within a `with`.

    Leaves in its folder: profile/, the trace; profile.json and profile.txt, the table
    of process 0's first device.

    Attributes:
      trainer: what is trained.
      folder: a local one.
      steps: traced, at least: whole dispatches are.
    """

    def __init__(
        self, trainer: Traceable[State], folder: str | pathlib.Path, steps: int
    ):
        self.trainer, self.folder, self.steps = trainer, pathlib.Path(folder), steps
        self.create, self.abstract = trainer.create, trainer.abstract
        self.learning_rate, self.flops = trainer.learning_rate, trainer.flops
        self.input_seconds = trainer.input_seconds
        self._calls, self._traced, self._begun = 0, 0, None
        self._done = jax.process_index() > 0

    def __enter__(self) -> "Profiled":
        # The cache knows programs without scopes: one of other code would be taken.
        self._named = jax.config.jax_compilation_cache_include_metadata_in_key
        jax.config.update(_METADATA_IN_KEY, True)
        return self

    def __exit__(self, *_) -> None:
        jax.config.update(_METADATA_IN_KEY, self._named)
        if self._begun is not None:
            jax.profiler.stop_trace()
        if not self._done:
            logging.warning("config.profile.steps: the training ended before them")

    def dispatch(self, state: State, step: int, count: int) -> tuple[State, Metrics]:
        """The trainer's; the host waits where the trace begins and ends."""
        if self._calls == _WARM_UP and not self._done:
            jax.block_until_ready(state)
            trace.start(self.folder / "profile")
            self._begun = time.monotonic()
        self._calls += 1
        state, metrics = self.trainer.dispatch(state, step, count)
        if self._begun is not None:
            self._traced += count
            if self._traced >= self.steps:
                jax.block_until_ready((state, metrics))
                seconds = time.monotonic() - self._begun
                jax.profiler.stop_trace()
                self._begun, self._done = None, True
                self._tell(seconds)
        return state, metrics

    def _tell(self, seconds: float) -> None:
        scopes = trace.scopes(self.trainer.program())
        found = table(
            trace.operations(self.folder / "profile"), scopes, self._traced, seconds
        )
        text = shown(found)
        (self.folder / "profile.json").write_text(json.dumps(found, indent=2) + "\n")
        (self.folder / "profile.txt").write_text(text)
        logging.info("%s", text.rstrip())


def table(
    operations: list[trace.Operation],
    scopes: dict[str, str],
    steps: int,
    seconds: float,
) -> dict:
    """Where the time of some traced steps went.

    Args:
      operations: of all of the steps.
      scopes: name of an operation -> where it stands in the code.
      seconds: that all of the steps took, tracing included.

    Returns:
      for profile.json: seconds a step and shares of them, by kind of layer and of the
      largest operations. "nothing" is when no operation ran.
    """
    named = [(scopes.get(one.name, one.name), one) for one in operations]
    kinds = trace.seconds_by((kind_of(scope), o.start, o.end) for scope, o in named)
    largest = trace.seconds_by((scope, o.start, o.end) for scope, o in named)
    busy = sum(kinds.values())
    kinds["nothing"] = max(seconds - busy, 0.0)
    whole = busy + kinds["nothing"]

    def rows(found):
        ordered = sorted(found.items(), key=lambda row: -row[1])
        return [
            {"name": name, "seconds": value / steps, "share": value / whole}
            for name, value in ordered
        ]

    return {
        "device": jax.devices()[0].device_kind,
        "steps": steps,
        "seconds_per_step": seconds / steps,
        "kinds": rows(kinds),
        "largest": rows(largest)[:_LARGEST],
    }


def shown(found: dict) -> str:
    """`table` as text."""
    lines = [
        f"{found['steps']} steps on {found['device']}, "
        f"{found['seconds_per_step']:.4g} s each, tracing included"
    ]
    for title, key in (("by kind of layer", "kinds"), ("the largest", "largest")):
        lines += ["", f"{'ms a step':>10}  share  {title}"]
        lines += [
            f"{1e3 * row['seconds']:10.2f} {row['share']:6.1%}  {row['name']}"
            for row in found[key]
        ]
    return "\n".join(lines) + "\n"
