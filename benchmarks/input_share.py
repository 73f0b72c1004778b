"""Input's share of a training step of the 35.7 M UNet, by the product's own log.

    python -m benchmarks.input_share --batch=8

The real command line on 50,000 random images of 32x32x3, once with the set on the
device and once streamed. The share is of host seconds in which batches were made, most
of them while the device works: an upper bound. The last line is JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from ddae_jax.runtime import log

BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 9, "Of each run; the first is not timed.")

SETS = {"resident": "", "streamed": "--config.data.resident_bytes=0"}


def main(argv):
    """Measures and prints a line a set."""
    del argv
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3))
        np.save(pathlib.Path(folder) / "train_images.npy", images.astype(np.uint8))
        for name, flag in SETS.items():
            workdir = pathlib.Path(folder) / name
            words = [
                *("--config=configs/cifar10.py", "--task=pretrain"),
                *("--config.data.name=arrays", f"--config.data.folder={folder}"),
                f"--config.train.batch_size={BATCH.value}",
                f"--config.train.steps={STEPS.value}",
                f"--config.train.log_every={STEPS.value}",
                "--config.train.sample_every=0",
                f"--workdir={workdir}",
            ]
            command = [sys.executable, "-m", "ddae_jax.main", *words, *flag.split()]
            subprocess.run(command, check=True)
            row = log.read_metrics(workdir)[-1]
            found[name] = {key: row[key] for key in ("input_share", "seconds_per_step")}
            print(
                f"{name:10s} {row['input_share']:.3%} of {row['seconds_per_step']:.2f}"
                " s a step",
                flush=True,
            )
    about = {"cores": os.cpu_count(), "load": os.getloadavg(), "batch": BATCH.value}
    print(json.dumps(about | found))


if __name__ == "__main__":
    app.run(main)
