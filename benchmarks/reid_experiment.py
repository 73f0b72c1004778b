"""AlignedReID's claims on synthetic persons: three backbones, three seeds, one table.

    python -m benchmarks.reid_experiment --folder=runs/reid_experiment

Runs the command line of configs/reid_demo.py in this process, seed by seed, and goes on
where it was stopped. FOLDER/seedN is the workdir of a seed;
FOLDER/reid_experiment.json and .txt hold the table of what is there.
"""

import json
import pathlib
import time

from absl import app, flags, logging

from benchmarks import reid_table
from ddae_jax import main as command_line

CONFIG = "configs/reid_demo.py"
LOSSES = {
    "global": ("local_weight=0.0", "distances=('global',)"),
    "local": (),
    "mutual": ("mutual=True",),
}
"""Global triplets alone; with local ones; two such networks that teach each other."""
BACKBONES = ("resnet", "frozen", "finetuned")

FOLDER = flags.DEFINE_string("folder", "runs/reid_experiment", "Of all runs.")
SEEDS = flags.DEFINE_integer("seeds", 3, "So many, from 0 on.")
VARIANT = flags.DEFINE_string("variant", "", '"test": each run takes seconds.')


def commands(folder: pathlib.Path, seed: int) -> list[tuple[str, list[str]]]:
    """(name of the run, words of the command line), in order."""
    test = f"+{VARIANT.value}" if VARIANT.value else ""
    beside = [f"--workdir={folder}", f"--config.seed={seed}"]
    found = []
    for backbone in BACKBONES:
        config = f"--config={CONFIG}:{backbone}{test}"
        if backbone == "frozen":
            found.append(("denoiser", [config, *beside, "--task=pretrain"]))
        for loss, fields in LOSSES.items():
            output = f"reid_{backbone}_{loss}"
            words = [f"--config.reid.{field}" for field in fields]
            words.append(f"--config.reid.output={output}")
            found.append((output, [config, *beside, *words, "--task=reid"]))
    return found


def make(folder: pathlib.Path, seed: int) -> None:
    """Makes what of a seed is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "seconds.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    for name, words in commands(folder, seed):
        if name in seconds:
            continue
        logging.info("seed %d: %s", seed, name)
        start = time.monotonic(), time.process_time()
        command_line.run(["main", *words])
        # Of the last go alone, where a run was stopped.
        seconds[name] = {
            "wall": round(time.monotonic() - start[0], 1),
            "cpu": round(time.process_time() - start[1], 1),
        }
        path.write_text(json.dumps(seconds, indent=1))


def main(_) -> None:
    """Makes all runs, and the table after each seed."""
    folder = pathlib.Path(FOLDER.value)
    for seed in range(SEEDS.value):
        make(folder / f"seed{seed}", seed)
        reid_table.write(folder)


if __name__ == "__main__":
    app.run(main)
