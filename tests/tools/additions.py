"""Pre-training with what DDAE++ adds, by the command line, on images of noise."""

import json
import pathlib

import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import log
from tests.tools import data_files

COUNT = 40
"""Images of the training set."""
TINY = (
    "--config=configs/fashion_mnist_16.py:dit+test",
    "--config.data.name=idx",
    "--config.data.image_size=8",
    "--config.network.hidden_size=16",
    "--config.network.heads=1",
    "--config.train.batch_size=8",
    "--config.train.sample_every=0",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=1",
)
SELF_CONDITIONED = "--config.network.self_condition.tap=default"
# The averages stay what they are: what a run began with can be read after a step.
FROZEN = ("--config.train.ema_decay=1", "--config.train.ema_warmup=False")


def write_images(folder: pathlib.Path, side: int = 8) -> str:
    """Writes random images as IDX files; returns the flag that names their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", COUNT), ("t10k", 20)):
        pictures = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
        files = {"images-idx3": pictures, "labels-idx1": np.arange(count) % 10}
        for name, array in files.items():
            path = folder / f"{split}-{name}-ubyte"
            path.write_bytes(data_files.encode_idx(array))
    return f"--config.data.folder={folder}"


def words(workdir: pathlib.Path, steps: int, *flags: str) -> tuple[str, ...]:
    """The flags that pre-train the tiny network to `steps`."""
    ours = ("--task=pretrain", f"--workdir={workdir}", f"--config.train.steps={steps}")
    return (*TINY, *ours, *flags)


def pretrain(workdir: pathlib.Path, steps: int, *flags: str) -> None:
    """Pre-trains the tiny network to `steps`, in this process."""
    main.run(["main", *words(workdir, steps, *flags)])


def refusal(workdir: pathlib.Path, *flags: str) -> str:
    """The one line that says why the training cannot begin."""
    with pytest.raises(UserError) as error:
        pretrain(workdir, 1, *flags)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000
    assert not (workdir / "checkpoints").exists()
    assert not log.read_metrics(workdir)
    return message


def read(workdir: pathlib.Path, name: str) -> dict:
    """A JSON file of a workdir."""
    return json.loads((workdir / name).read_text())
