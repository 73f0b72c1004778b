"""The grid of a probe: at which times, what each cell reached, and which is chosen."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ddae_jax.diffusion import times as times_lib
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.times import Time
from ddae_jax.settings.contrastive import ContrastiveSettings
from ddae_jax.settings.probe import ProbeSettings


def columns(times: Sequence[Time], concat: str) -> tuple[Time, ...]:
    """The grid's columns: the times, or one that joins them all.

    Where times are joined, the column's own fields are those of the smallest noise
    level.
    """
    if concat not in ("times", "both") or len(times) == 1:
        return tuple(times)
    least = min(times, key=lambda time: time.noise_level)
    return (dataclasses.replace(least, joined=tuple(times)),)


def cell_parts(
    taps: Sequence[str], time_count: int, concat: str
) -> list[dict[str, list[tuple[int, str]]]]:
    """For each column, name of the cell -> the (index of the time, tap) that it joins.

    The features of a cell are those of its parts one after the other, time by time. A
    cell of several taps is named TAP+TAP.
    """

    def groups(values, joined):
        return [list(values)] if joined else [[value] for value in values]

    return [
        {
            "+".join(names): [(number, name) for number in numbers for name in names]
            for names in groups(taps, concat in ("taps", "both"))
        }
        for numbers in groups(range(time_count), concat in ("times", "both"))
    ]


def resolve_times(
    settings: ProbeSettings | ContrastiveSettings,
    process: Process,
    published: Sequence[int | float],
    section: str = "probe",
) -> tuple[Time, ...]:
    """`times.resolve` of `settings.noise_levels` and `settings.times`.

    Args:
      published: the times where neither is given.
      section: of the config that `settings` is; errors name its fields.
    """
    return times_lib.resolve(
        process,
        settings.times or published,
        settings.noise_levels,
        f"config.{section}.times",
        f"config.{section}.noise_levels",
    )


@dataclasses.dataclass(frozen=True)
class Accuracies:
    """Accuracies in [0, 1] of one seed: for each time, name of the features -> it.

    Attributes:
      held_out: on held-out images, of heads that have not seen them.
      test: on test images.
      details: what else is known of a cell, JSON-able; empty where there is nothing.
    """

    held_out: list[dict[str, float]]
    test: list[dict[str, float]]
    details: list[dict[str, dict]] = dataclasses.field(default_factory=list)


def spread(values: Sequence[float]) -> float | None:
    """Standard error of the mean over seeds; None for one seed."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def summarise(
    scores: Sequence[Accuracies], times: Sequence[Time], test_count: int
) -> dict:
    """What probe.json says of one encoder.

    Returns:
      "cells": all; "chosen": the best on held-out images, mean over the seeds, the
      first of equals; "best_on_test": what the published protocol reports.
    """
    cells = []
    for name in scores[0].test[0]:
        for i, time in enumerate(times):
            held_out = [score.held_out[i][name] for score in scores]
            test = [score.test[i][name] for score in scores]
            cells.append(
                {
                    "tap": name,
                    **time.fields(),
                    "held_out": float(np.mean(held_out)),
                    "test": float(np.mean(test)),
                    "held_out_by_seed": held_out,
                    "test_by_seed": test,
                    "standard_error": spread(test),
                }
            )
            if scores[0].details:
                details = [score.details[i][name] for score in scores]
                cells[-1]["details_by_seed"] = details
    chosen = max(cells, key=lambda cell: cell["held_out"])
    best = max(cells, key=lambda cell: cell["test"])
    accuracy = chosen["test"]
    return {
        "chosen": {
            **chosen,
            "chosen_by": "held-out accuracy, mean over the seeds",
            "test_sampling_error": math.sqrt(accuracy * (1 - accuracy) / test_count),
        },
        "best_on_test": {
            **best,
            "chosen_by": "test accuracy, as published: biased upwards",
        },
        "cells": cells,
    }
