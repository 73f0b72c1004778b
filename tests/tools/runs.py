"""Runs the real command line, on a tiny network and the digits."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddae_jax import main

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = (
    "--config=configs/digits.py:test",
    "--config.network.channels=32",
    "--config.network.channel_multipliers=(1,)",
    "--config.network.attention=(False,)",
    "--config.train.batch_size=16",
    "--config.train.sample_every=0",
    "--config.train.log_every=1",
)


def environment(devices: int = 1) -> dict[str, str]:
    """Environment of a subprocess with `devices` fake devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags}


def command(*flags: str) -> list[str]:
    """The words of the real command line."""
    return [sys.executable, "-m", "ddae_jax.main", *flags]


def start(*flags: str, devices: int = 1) -> subprocess.Popen:
    """Starts the command line; stderr is piped."""
    return subprocess.Popen(
        command(*flags),
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*flags: str, devices: int = 1, status: int = 0) -> str:
    """Runs the command line, checks its exit status, returns stderr."""
    process = start(*flags, devices=devices)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == status, errors
    return errors


def pretraining(workdir, steps: int, *flags: str) -> tuple[str, ...]:
    """The flags that pre-train the tiny network to `steps`."""
    ours = ("--task=pretrain", f"--workdir={workdir}", f"--config.train.steps={steps}")
    return (*TINY, *ours, *flags)


def pretrain(workdir, steps: int, *flags: str) -> None:
    """Pre-trains the tiny network to `steps`, in this process."""
    main.run(["main", *pretraining(workdir, steps, *flags)])


def run_each(commands: list[tuple[str, ...]], devices: int) -> None:
    """Runs command lines one after the other in one subprocess."""
    lines = f"from ddae_jax import main\nfor flags in {commands!r}:\n  "
    words = [sys.executable, "-c", lines + "main.main(['main', *flags])"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr


def saved_state(workdir, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, by name, on one device of this process."""
    folder = pathlib.Path(workdir) / "checkpoints" / str(step) / "default"
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata.tree
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            shapes,
        )
        state = checkpointer.restore(folder, abstract)
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_same_state(one: dict, other: dict) -> None:
    """Bitwise."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


TIMES = {
    "time",
    "seconds",
    "seconds_per_step",
    "images_per_second",
    "input_share",
    "peak_share",
}


def without_times(rows: list[dict]) -> list[dict]:
    """Rows of metrics, without what differs between equal runs."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
