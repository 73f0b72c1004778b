"""From a command to its first step, and what comes before it.

    python -m benchmarks.startup

Each row is a process of its own, after one that filled the cache of compiled programs;
the fastest of --rounds. The last line is JSON.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from ddae_jax.runtime import log

ROUNDS = flags.DEFINE_integer("rounds", 2, "Timed runs of each.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 8, "Images of the first step.", lower_bound=1)
ONLY = flags.DEFINE_list("only", [], "Rows by name; all.")

INIT = """
import time, jax
from ddae_jax.runtime import parallel, piecewise, program_cache
program_cache.prepare()
from ddae_jax.models.unet import UNet
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.denoiser import Denoiser
denoiser = Denoiser(UNet(), DDPM())
begun = time.monotonic()
drawn = list(piecewise.results(denoiser.init_program((32, 32, 3)), jax.random.key(0)))
jax.block_until_ready(drawn)
print(time.monotonic() - begun)
"""

SAVE = """
import tempfile, time, jax, jax.numpy as jnp
from ddae_jax.runtime import checkpoint, parallel
mesh = parallel.make_mesh(8)
tree = {str(i): jnp.ones((256, 1024)) for i in range(136)}
tree = jax.device_put(tree, parallel.state_shardings(mesh, tree))
jax.block_until_ready(tree)
with tempfile.TemporaryDirectory() as folder:
    with checkpoint.manager(folder, checkpoint.Keep()) as checkpoints:
        begun = time.monotonic()
        checkpoint.save(checkpoints, 1, tree, 1.0, {})
        checkpoints.wait_until_finished()
        print(time.monotonic() - begun)
"""


def python(*words: str, devices: int = 1) -> str:
    """Runs Python; returns what it printed."""
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | ({"XLA_FLAGS": count} if devices > 1 else {})
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def seconds_of(*words: str) -> float:
    """How long a Python process takes."""
    begun = time.monotonic()
    python(*words)
    return time.monotonic() - begun


def first_step(folder: pathlib.Path) -> float:
    """From the command of the 35.7 M UNet until its first step is in metrics.jsonl."""
    data = folder / "data"
    if not data.exists():
        data.mkdir()
        images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3))
        np.save(data / "train_images.npy", images.astype(np.uint8))
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        begun = time.time()
        python(
            *("-m", "ddae_jax.main", "--config=configs/cifar10.py", "--task=pretrain"),
            *("--config.data.name=arrays", f"--config.data.folder={data}"),
            *(f"--config.train.batch_size={BATCH.value}", "--config.train.steps=1"),
            *("--config.train.log_every=1", "--config.train.sample_every=0"),
            f"--workdir={workdir}",
        )
        return log.read_metrics(workdir)[0]["time"] - begun


def main(argv):
    """Measures and prints a table."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            "import": (1, lambda: seconds_of("-c", "import ddae_jax")),
            "help": (1, lambda: seconds_of("-m", "ddae_jax.main", "--help")),
            "initialisation": (2, lambda: float(python("-c", INIT))),
            "first save": (2, lambda: float(python("-c", SAVE, devices=8))),
            "first step": (10, lambda: first_step(pathlib.Path(folder))),
        }
        found = {}
        for name, (goal, measure) in rows.items():
            if ONLY.value and name not in ONLY.value:
                continue
            cold = measure()
            found[name] = min(measure() for _ in range(ROUNDS.value))
            print(
                f"{name:16s} {found[name]:6.2f} s  goal {goal:2d} s"
                f"  (the run before: {cold:.2f} s)",
                flush=True,
            )
    about = {"cores": os.cpu_count(), "load": os.getloadavg(), "batch": BATCH.value}
    print(json.dumps(about | {"seconds": found}))


if __name__ == "__main__":
    app.run(main)
