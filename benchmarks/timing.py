"""Timing of calls turn by turn, so that a drifting machine spoils no ratio."""

import statistics
import time
from collections.abc import Callable

import numpy as np


def alternate(
    sides: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Times the calls turn by turn, after two warm-ups each. Returns seconds."""
    for run in sides.values():
        run()
        run()
    seconds = {name: [] for name in sides}
    for turn in range(rounds):
        # Every other round runs backwards, so that no side always follows another.
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(seconds: dict[str, list[float]], images: int) -> dict[str, dict]:
    """Images/s of each side and our speed over theirs, with the quartiles.

    `ratio` is of the medians; `ratio_quartiles` are those of the rounds' ratios.
    """
    result = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        result[name] = {
            "images_per_second": images / median,
            "slowest_over_fastest": max(values) / min(values),
        }
        if name != "ours":
            rounds = np.divide(values, seconds["ours"])
            result[name]["ratio"] = median / statistics.median(seconds["ours"])
            result[name]["ratio_quartiles"] = np.quantile(rounds, [0.25, 0.75]).tolist()
    return result


def show(task: str, result: dict[str, dict]) -> None:
    """Prints one line a side."""
    for name, row in result.items():
        line = f"{task:8s} {name:16s} {row['images_per_second']:9.2f} images/s"
        line += f"  slowest/fastest {row['slowest_over_fastest']:.2f}"
        if "ratio" in row:
            low, high = row["ratio_quartiles"]
            line += f"  ours is {row['ratio']:.2f} x this ({low:.2f} to {high:.2f})"
        print(line, flush=True)
