"""How long to train, and when to do what; all in optimiser steps."""

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ddae_jax.runtime.checkpoint import Keep


@dataclasses.dataclass(frozen=True)
class Every:
    """Each multiple of `steps`; 0 for never."""

    steps: int

    def after(self, step: int) -> int | None:
        """The first due step that is larger than `step`; None where there is none."""
        return (step // self.steps + 1) * self.steps if self.steps else None

    def due(self, step: int) -> bool:
        """Whether `step` is one of them."""
        return self.after(step - 1) == step


@dataclasses.dataclass(frozen=True)
class At:
    """The given steps, ascending."""

    steps: tuple[int, ...]

    def after(self, step: int) -> int | None:
        """The first due step that is larger than `step`; None where there is none."""
        place = bisect.bisect_right(self.steps, step)
        return self.steps[place] if place < len(self.steps) else None

    def due(self, step: int) -> bool:
        """Whether `step` is one of them."""
        return step in self.steps


When = Every | At


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a hook found.

    Attributes:
      numbers: join the row of metrics of that step, which is then written.
      pictures: uint8 (height, width, channels), for the events.
    """

    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Hook:
    """What is done with the state while it is trained.

    Attributes:
      when: the steps after which it is called.
      call: (state, step) -> what it found.
    """

    when: When
    call: Callable[[Any, int], Measured]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one state is trained.

    Attributes:
      title: names the training in messages.
      steps: the last step.
      batch_size: images of a step, over all devices; for the rate in the log.
      steps_per_dispatch: the most steps in one call of the device.
      log: rows of metrics, each the mean since the row before; there is one at the end.
      checkpoint: saves; there is one at the end, too.
      keep: which checkpoints stay.
      wandb: project of Weights & Biases that gets the rows too; empty for none.
      lower: the config's field to lower where the loss diverges.
    """

    title: str
    steps: int
    batch_size: int
    steps_per_dispatch: int = 1
    log: When = Every(50)
    checkpoint: When = Every(1000)
    keep: Keep = Keep()
    wandb: str = ""
    lower: str = "the learning rate"

    def count(self, step: int, hooks: tuple[Hook, ...]) -> int:
        """Steps of the call after `step`: no further than the next event."""
        ends = [self.steps, step + self.steps_per_dispatch]
        events = (self.log, self.checkpoint, *(hook.when for hook in hooks))
        ends += [end for when in events if (end := when.after(step)) is not None]
        return min(ends) - step


def steps_of_epochs(epochs: int, count: int, batch_size: int) -> int:
    """Optimiser steps until each of `count` images has been seen `epochs` times."""
    return -(-epochs * count // batch_size)
