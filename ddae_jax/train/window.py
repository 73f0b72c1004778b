"""Metrics over a window of steps, merged on the host one step after the other.

So they do not depend on how many steps a dispatch has, and a window that a checkpoint
cuts can be written down and gone on with.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from jaxtyping import Array

from ddae_jax.runtime import compiler

Metrics = Mapping[str, Average]
"""Name -> total and count; of several steps, with a leading axis of steps. "loss" is
always there."""


def single(value: Array) -> Average:
    """A number of a whole step as a metric."""
    return Average(total=value, count=jnp.int32(1))


def stacked(rows: Sequence[Metrics]) -> Metrics:
    """The metrics of single steps with a leading axis of steps."""
    return _stack(tuple(rows))


@compiler.jit
def _stack(rows):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


@dataclasses.dataclass
class Window:
    """What is known of the steps since a row of metrics, or since a checkpoint.

    Attributes:
      sums: name -> total and count, in float64.
      seconds: that have passed, compilation and hooks included.
      timed_steps: of these steps, those that were compiled before.
      timed_seconds: that they took.
      input_seconds: for which the host made their batches, while the device worked or
        waited.
    """

    sums: dict[str, Average] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0
    input_seconds: float = 0.0

    def add(self, metrics: Metrics) -> None:
        """Merges the metrics of one step, on the host."""
        for name, metric in metrics.items():
            ours = Average(np.float64(metric.total), np.float64(metric.count))
            known = self.sums.get(name)
            self.sums[name] = ours if known is None else known.merge(ours)

    def means(self) -> dict[str, float]:
        """Name -> mean; a metric that counted nothing is left out."""
        return {
            name: float(metric.compute())
            for name, metric in self.sums.items()
            if metric.count
        }

    def rates(self, batch_size: int, step_flops: float | None, peak: float | None):
        """Name -> rate; nothing where no step was timed."""
        if not self.timed_steps:
            return {}
        per_step = self.timed_seconds / self.timed_steps
        found = {
            "seconds_per_step": per_step,
            "images_per_second": batch_size / per_step,
            "input_share": self.input_seconds / self.timed_seconds,
        }
        if step_flops and peak:
            found["peak_share"] = step_flops / per_step / peak
        return found

    def to_json(self) -> dict:
        """For `from_json`; exact."""
        sums = {name: [float(m.total), float(m.count)] for name, m in self.sums.items()}
        timed = [self.timed_steps, self.timed_seconds, self.input_seconds]
        return {"sums": sums, "times": [self.seconds, *timed]}

    @classmethod
    def from_json(cls, content: dict | None) -> "Window":
        """The window that `to_json` wrote; an empty one for None."""
        if not content:
            return cls()
        sums = {
            name: Average(np.float64(total), np.float64(count))
            for name, (total, count) in content["sums"].items()
        }
        return cls(sums, *content["times"])
