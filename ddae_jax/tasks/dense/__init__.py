"""What features know of each position: maps, segmentation; and nearest neighbours."""

import dataclasses
import time as clock
from collections.abc import Mapping

import numpy as np
from absl import logging

from ddae_jax.experiment import Experiment, cell
from ddae_jax.report import outcome
from ddae_jax.runtime import parallel
from ddae_jax.tasks.dense import maps as dense_maps
from ddae_jax.tasks.dense import retrieval as dense_retrieval
from ddae_jax.tasks.dense import segmentation as dense_segmentation
from ddae_jax.tasks.dense.job import Job

_TAPS = 4  # shown where none is named
_PARTS = {
    "maps": dense_maps.run,
    "retrieval": dense_retrieval.run,
    "segmentation": dense_segmentation.run,
}
"""Name in config.dense.parts -> function of (config, Job) that gives a Part."""


def run(experiment: Experiment) -> None:
    """Runs config.dense.parts on the checkpoint, without changing its network.

    Writes dense.json, dense.txt and a picture for each part: dense.png, dense+2.png ...

    Raises:
      UserError: no checkpoint; images or masks that cannot be used.
    """
    started = clock.monotonic()
    trained = experiment.trained()
    parallel.check_batch_size(
        "config.dense.batch_size", experiment.settings.dense.batch_size, trained.mesh
    )
    taps = experiment.settings.dense.taps or spread(
        trained.denoiser.network.tap_paths()
    )
    chosen = cell.choose(experiment, "dense", trained.denoiser)
    job = Job(trained, tuple(taps), chosen)
    parts = {}
    for name in experiment.settings.dense.parts:
        logging.info("dense: %s", name)
        parts[name] = _PARTS[name](experiment, job)
    outcome.write(
        experiment.workdir,
        experiment.settings.dense.output,
        outcome.Outcome(
            title="Positions and neighbours",
            summary="; ".join(part.summary for part in parts.values()),
            facts={
                "step": trained.step,
                "tap": chosen.tap,
                **dataclasses.asdict(chosen.time),
                **{name: part.facts for name, part in parts.items()},
            },
            protocol={
                "weights": "EMA",
                "noise level": chosen.time.noise_level,
                "chosen by": chosen.chosen_by,
                "seed": experiment.settings.seed,
                **{
                    f"{name}: {key}": value
                    for name, part in parts.items()
                    for key, value in part.protocol.items()
                },
                "seconds": round(clock.monotonic() - started, 1),
            },
            headers=("part", "features", "measure", "value"),
            rows=[(name, *row) for name, part in parts.items() for row in part.rows],
            pictures=[part.picture for part in parts.values()],
        ),
    )


def spread(paths: Mapping[str, str], count: int = _TAPS) -> tuple[str, ...]:
    """Chooses `count` taps that lie evenly over the depth, the first and last too.

    Args:
      paths: tap -> path of its submodule; of names for one path, the first counts.
    """
    names = list({path: name for name, path in reversed(paths.items())}.values())[::-1]
    places = np.linspace(0, len(names) - 1, min(count, len(names)))
    return tuple(names[round(place)] for place in places)
