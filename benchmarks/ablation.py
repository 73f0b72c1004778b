"""Self-conditioning and its rivals, trained and measured alike: one table.

    python -m benchmarks.ablation --folder=runs/ablation --parallel=2

Runs the command line for every row of configs/fashion_mnist_16.py, one process on each
share of the CPU's cores, and goes on where it was stopped. What is measured is in
FOLDER/RUN; FOLDER/ablation.json, .txt and report.html hold the table.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

from absl import app, flags, logging

from benchmarks import ablation_table
from ddae_jax.runtime import files
from ddae_jax.weights import layer_chain

CONFIG = "configs/fashion_mnist_16.py"
# Variant and its seeds: three where the claim is tested, one elsewhere.
ROWS = {
    "unet": (0, 1, 2),
    "unet+sc": (0, 1, 2),
    "unet+sc+csd": (0, 1, 2),
    "unet+sc_stopped": (0,),
    "unet+csd": (0,),
    "unet+dispersive": (0,),
    "unet+self_alignment": (0,),
    "dit": (0, 1, 2),
    "dit+sc": (0, 1, 2),
    "dit+sc+csd": (0, 1, 2),
}
RETROFIT = "unet+sc"  # continues the plain network of seed 0 from half of its steps
TRACKED = ("unet", "unet+sc", "unet+sc+csd")
CLASSIFIER = "unet-seed0/fid_classifier"  # whose features all distances are taken in

FOLDER = flags.DEFINE_string("folder", "runs/ablation", "Of all runs.")
STEPS = flags.DEFINE_integer("steps", 1000, "Optimiser steps of every run.")
PARALLEL = flags.DEFINE_integer("parallel", 2, "Runs at a time.")
VARIANT = flags.DEFINE_string("variant", "", '"test": each run takes seconds.')
ONLY = flags.DEFINE_string("only", "", "Part of the names of the runs to make.")
TRACK = flags.DEFINE_bool("track", True, "Also follow some runs over training.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of the table with one seed.

    Attributes:
      name: of its folder.
      variant: of the config.
      seed: of all its random streams.
      steps: of its training.
      fields: of the config, beside.
    """

    name: str
    variant: str
    seed: int
    steps: int
    fields: tuple[str, ...] = ()


def runs(steps: int) -> list[Run]:
    """All rows and seeds, and the retrofit at the end; seed 0 of all rows first."""
    found = []
    for seed in range(max(map(len, ROWS.values()))):
        found += [
            Run(f"{variant}-seed{seed}", variant, seed, steps)
            for variant, seeds in ROWS.items()
            if seed in seeds
        ]
    half = steps // 2
    start = f"--config.train.start_from={pathlib.Path(FOLDER.value) / 'unet-seed0'}"
    fields = (start, f"--config.train.start_step={half}")
    # Another seed: the second half shall not see the first one's images and noise.
    return [*found, Run("retrofit-seed0", RETROFIT, 100, steps - half, fields)]


def commands(
    run: Run, folder: pathlib.Path, followed: bool
) -> Iterator[tuple[str, list[str]]]:
    """Yields (file that says it is done, words of the command line).

    Args:
      followed: whether also over training.
    """
    test = f"+{VARIANT.value}" if VARIANT.value else ""
    first = [
        f"--config={CONFIG}:{run.variant}{test}",
        f"--workdir={folder / run.name}",
        f"--config.seed={run.seed}",
        f"--config.train.steps={run.steps}",
        *run.fields,
    ]
    own = run.name == CLASSIFIER.split("/")[0]
    fid = [
        f"--config.fid.features={'classifier' if own else folder / CLASSIFIER}",
        f"--config.fid.cache={folder / 'cache'}",
    ]
    yield "trained.txt", [*first, "--task=pretrain"]
    yield "fid.json", [*first, *fid, "--task=fid"]
    yield "probe.json", [*first, "--task=probe"]
    yield "diagnose.json", [*first, "--task=diagnose"]
    for name, fields in ablation_table.OTHER_PROBES.items():
        output = f"--config.probe.output=probe_{name}"
        alone = "--config.probe.baselines=False"
        if test and fields[0].startswith("--config.probe.label_fraction"):
            fields = ("--config.probe.label_fraction=0.5",)  # of 64 images
        yield f"probe_{name}.json", [*first, *fields, output, alone, "--task=probe"]
    yield "report.html", [*first, "--task=report"]
    if followed:
        fewer = ("--config.fid.count=1000", "--config.probe.times=11")
        yield "track.json", [*first, *fid, *fewer, "--task=track,report"]


def make(
    run: Run,
    folder: pathlib.Path,
    cores: set[int],
    classifier: threading.Event,
    followed: bool = False,
) -> bool:
    """Makes what of a run is not there yet; whether all of it is there then.

    Args:
      classifier: is set when the run that trains it has got so far.
      followed: whether also over training.
    """
    own = run.name == CLASSIFIER.split("/")[0]
    workdir = folder / run.name
    workdir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    for done, words in commands(run, folder, followed):
        if (workdir / done).exists():
            continue
        if done == "fid.json" and not own:
            classifier.wait()
        logging.info("%s: %s", run.name, words[-1])
        with (workdir / "log.txt").open("a") as log:
            ended = subprocess.run(
                [sys.executable, "-m", "ddae_jax.main", *words],
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        if ended.returncode:
            logging.error("%s: %s failed, see %s", run.name, words[-1], log.name)
            return False
        if done == "fid.json" and own:
            classifier.set()
        if done == "trained.txt":
            if not (workdir / "checkpoints" / str(run.steps)).is_dir():
                return False  # a signal stopped it
            with files.replacing(workdir / done) as part:
                part.write_text(f"{run.steps} steps\n")
    shutil.rmtree(workdir / "features", ignore_errors=True)
    return True


def main(_) -> None:
    """Makes all runs, then the table of those that are whole."""
    folder = pathlib.Path(FOLDER.value)
    wanted = [run for run in runs(STEPS.value) if ONLY.value in run.name]
    if not wanted:
        raise app.UsageError(f"--only={ONLY.value}: no run has that in its name")
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.Queue[set[int]] = queue.Queue()
    for number in range(PARALLEL.value):
        shares.put(set(cores[number :: PARALLEL.value]) or set(cores))

    def one(run, followed=False):
        share = shares.get()
        try:
            return make(run, folder, share, classifier, followed)
        finally:
            shares.put(share)
            if run is wanted[0]:  # it may have failed: the others then say so
                classifier.set()

    classifier = threading.Event()
    trained = (folder / CLASSIFIER / layer_chain.DESCRIPTION).is_file()
    comes = any(run.name == CLASSIFIER.split("/")[0] for run in wanted)
    if trained or not comes or PARALLEL.value < 2:
        classifier.set()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL.value) as pool:
        ready = all(list(pool.map(one, wanted)))
        ablation_table.write(folder)
        if TRACK.value:
            some = [r for r in wanted if r.seed == 0 and r.variant in TRACKED]
            ready &= all(list(pool.map(lambda run: one(run, followed=True), some)))
    ablation_table.write(folder)
    raise SystemExit(0 if ready else 1)


if __name__ == "__main__":
    app.run(main)
