"""Seconds of a move of the explorer's slider: python -m benchmarks.explore_speed

Of a network of random weights on random images: neither changes what is computed.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from ddae_jax.experiment import Experiment
from ddae_jax.runtime.files import write_json
from ddae_jax.settings import config_files, schema
from ddae_jax.tasks.explore import answers
from ddae_jax.tasks.explore.explorer import Explorer


def main() -> None:
    """Prints what it has measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 8, 1))
    parser.add_argument("--references", type=int, default=256)
    parser.add_argument("--levels", type=int, default=5)
    arguments = parser.parse_args()
    with _experiment(arguments) as experiment:
        print(json.dumps(_measure(experiment, arguments.levels), indent=2))


@contextlib.contextmanager
def _experiment(arguments):
    """One whose images are noise in a folder."""
    height, width, channels = arguments.shape
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        (workdir / "images").mkdir()
        for number in range(arguments.references):
            pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
            shown = pixels[..., 0] if channels == 1 else pixels
            Image.fromarray(shown).save(workdir / "images" / f"{number}.png")
        write_json(
            workdir / "data.json", {"image_shape": arguments.shape, "class_count": 2}
        )
        settings = schema.build(config_files.load(arguments.config))
        explore = dataclasses.replace(
            settings.explore,
            images=str(workdir / "images"),
            references=arguments.references,
        )
        yield Experiment(dataclasses.replace(settings, explore=explore), workdir)


def _measure(experiment: Experiment, levels: int) -> dict:
    started = time.perf_counter()
    explorer = Explorer(experiment, experiment.untrained(), None)
    image = explorer.chosen.source.read([0])[0]
    tap = explorer.cell.tap

    def move(level):
        before = time.perf_counter()
        shown = explorer.explored(image, level, tap)
        json.dumps(answers.of_explored(explorer, shown, level))
        return time.perf_counter() - before

    move(explorer.opened_at)
    opened = time.perf_counter() - started
    places = [explorer.opened_at + step for step in range(1, levels + 1)]
    first, again = [[move(level) for level in places] for _ in range(2)]
    return {
        "taps": len(explorer.taps),
        "references": len(explorer.references.names),
        "seconds until it opens": round(opened, 1),
        "seconds of a move, median of the first": round(statistics.median(first), 3),
        "of the second": round(statistics.median(again), 3),
    }


if __name__ == "__main__":
    main()
