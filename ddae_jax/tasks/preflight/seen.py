"""What one process sees of its machine, its code and its data, as JSON can hold it."""

import importlib.metadata
import math
import pathlib
import platform
import shutil
import socket
import sys
from typing import Any

import jax

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment
from ddae_jax.runtime import hardware, identity
from ddae_jax.settings import plain
from ddae_jax.settings.train import TrainSettings

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What may differ between the processes of one command.
_OWN_FLAGS = ("--process_index", "--local_devices")
_COPIES = 4  # of the parameters in a checkpoint: themselves, EMA, Adam's two moments


def by_this_process(experiment: Experiment) -> dict[str, Any]:
    """The facts, in which every process of a good run agrees or can be judged."""
    shape, trouble = _image_shape(experiment)
    return {
        "host": socket.gethostname(),
        "words": shared_words(sys.argv[1:]),
        "settings": identity.of(settings=plain.of_settings(experiment.settings)),
        "code": code_identity(),
        "versions": versions(),
        "platform": jax.default_backend(),
        "devices": jax.local_device_count(),
        "gpus": hardware.gpus(),
        "tpu_chips": hardware.tpu_chips(),
        "image_shape": shape,
        "data_trouble": trouble,
        "disk_needed": _disk_needed(experiment, shape),
        "disk_free": _disk_free(experiment.workdir),
    }


def shared_words(words: list[str]) -> list[str]:
    """The words of a command that all processes must have been given alike."""
    kept, skip = [], False
    for word in words:
        own = word.startswith(_OWN_FLAGS)
        if not (own or skip):
            kept.append(word)
        skip = own and "=" not in word
    return kept


def code_identity() -> str:
    """Hash of the Python files of this package."""
    root = pathlib.Path(ddae_jax.__file__).parent
    return identity.of_files(root, list(root.rglob("*.py")))


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found


def checkpoints_kept(train: TrainSettings) -> int:
    """How many lie on the disk at most, the one that is being written included."""
    every = train.steps // train.keep_every if train.keep_every else 0
    return train.keep_latest + train.keep_best + every + 1


def _image_shape(experiment: Experiment) -> tuple[list[int] | None, str | None]:
    """(what the denoiser takes, None), or (None, why the data cannot be opened)."""
    try:
        if (experiment.workdir / DATA).exists():
            return list(experiment.image_shape), None
        return list(experiment.source("train").image_shape), None
    except (UserError, OSError) as error:
        return None, " ".join(str(error).split())[:200]


def _disk_needed(experiment: Experiment, shape: list[int] | None) -> int | None:
    """Bytes of the checkpoints that pre-training adds to those that are there."""
    if shape is None:
        return None
    try:
        shapes = experiment.denoiser.parameter_shapes(tuple(shape))
    except UserError:  # the network does not take these images: the task will say it
        return None
    size = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
    )
    kept = checkpoints_kept(experiment.settings.train)
    folder = experiment.workdir / "checkpoints"
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return max(_COPIES * size * kept - there, 0)


def _disk_free(workdir: pathlib.Path) -> int | None:
    try:
        return shutil.disk_usage(workdir).free
    except OSError:
        return None
