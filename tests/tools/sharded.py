"""What reads a network, on any number of devices: its numbers, where weights lay."""

import csv
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from unittest import mock

import jax
import numpy as np

import ddae_jax
from ddae_jax.experiment.trained import Trained
from ddae_jax.settings import schema
from ddae_jax.settings.saved import write as write_config
from ddae_jax.tasks import fid, predict, probe
from tests.tools import dense as dense_tools
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of

Numbers = dict[str, np.ndarray]
IMAGES, NETWORK = "images", "network"


def write_workdir(folder: pathlib.Path) -> None:
    """A checkpoint, a classifier fine-tuned from it, images, and a feature network."""
    config = dense_tools.make_config()
    dense_tools.write_checkpoint(folder, config)
    dense_tools.write_finetuned(folder, config)
    config.mesh.fsdp = 2
    write_config(schema.build(config), folder)
    fid_tools.write_folder(folder / IMAGES, fid_tools.images(7, 0))
    fid_tools.write_network(folder / NETWORK)


def _config(workdir, fsdp):
    config = dense_tools.make_config()
    config.mesh.fsdp = fsdp
    config.sampler.steps = 2
    config.probe.classifier = "logistic"
    config.probe.taps = ("out_1",)
    config.probe.train_count, config.probe.test_count = 200, 100
    config.probe.baselines = False
    config.fid.features = str(workdir / NETWORK)
    config.fid.cache = str(workdir / "cache")
    config.fid.test_images = False
    config.predict.head, config.predict.images = "finetune", str(workdir / IMAGES)
    return config


def _probe(workdir: pathlib.Path, fsdp: int) -> Numbers:
    probe.run(experiment_of(_config(workdir, fsdp), workdir))
    cells = json.loads((workdir / "probe.json").read_text())["cells"]
    return {"accuracies": np.array([[c["held_out"], c["test"]] for c in cells])}


def _fid(workdir: pathlib.Path, fsdp: int) -> Numbers:
    fid.run(experiment_of(_config(workdir, fsdp), workdir))
    return {"fid": np.array(json.loads((workdir / "fid.json").read_text())["fid"])}


def _predict(workdir: pathlib.Path, fsdp: int) -> Numbers:
    predict.run(experiment_of(_config(workdir, fsdp), workdir))
    with np.load(workdir / "features.npz") as file:
        features = file["features"]
    with (workdir / "predictions.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    probabilities = np.array([row[3:] for row in rows], float)
    return {"features": features, "probabilities": probabilities}


def _load(workdir: pathlib.Path, fsdp: int) -> Numbers:
    """Takes `fsdp` out of the workdir's config."""
    model = ddae_jax.load(workdir, batch_size=3)  # no multiple of two devices
    noisy = np.random.default_rng(0).normal(size=(7, 8, 8, 1))
    return {
        "features": model.features(fid_tools.images(7, 0), "out_1", 0.1),
        "denoised": model.denoise(noisy, 1.0),
        "samples": model.sample(5, steps=2).astype(float),
    }


_TASKS = {"probe": _probe, "fid": _fid, "predict": _predict, "load": _load}


def measure(workdir: pathlib.Path, names: Sequence[str], fsdp: int) -> Numbers:
    """Runs tasks on the devices of this process.

    Returns:
      "task/number" -> its value, and "task/sharded" -> whether no device ever had the
      whole of the largest array of the weights, as it is read and as an argument of a
      compiled function.
    """
    numbers = {}
    for name in names:
        shapes, sharded, arguments = set(), [], []

        def watched(trained, variables=Trained.variables.fget, own=(shapes, sharded)):
            found = variables(trained)
            largest = max(jax.tree.leaves(found), key=lambda leaf: leaf.size)
            own[0].add(largest.shape)
            own[1].append(not largest.sharding.is_fully_replicated)
            return found

        with (
            mock.patch.object(Trained, "variables", property(watched)),
            mock.patch.object(jax, "jit", _noting(jax.jit, arguments)),
        ):
            found = _TASKS[name](workdir, fsdp)
        numbers |= {f"{name}/{key}": value for key, value in found.items()}
        sharded += [not whole for shape, whole in arguments if shape in shapes]
        numbers[f"{name}/sharded"] = np.array(bool(sharded) and all(sharded))
    return numbers


def _noting(jit, arguments):
    """`jit` whose functions add to `arguments` the shape of every array that they are
    called with, and whether each device has the whole of it."""

    def noting(function, **options):
        compiled = jit(function, **options)

        def call(*positional, **named):
            for leaf in jax.tree.leaves((positional, named)):
                if isinstance(leaf, jax.Array) and not isinstance(
                    leaf, jax.core.Tracer
                ):
                    arguments.append((leaf.shape, leaf.sharding.is_fully_replicated))
            return compiled(*positional, **named)

        call.lower = compiled.lower
        return call

    return noting


def measure_on(devices: int, workdir: pathlib.Path, names: Sequence[str]) -> Numbers:
    """`measure` in a subprocess, parameters sharded over as many fake devices."""
    target = workdir / "numbers.npz"
    words = f"pathlib.Path({str(workdir)!r}), {tuple(names)!r}, {devices}"
    lines = (
        "import pathlib, jax, numpy",
        "from tests.tools import sharded",
        f"assert jax.device_count() == {devices}",
        f"numpy.savez({str(target)!r}, **sharded.measure({words}))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=run_tools.ROOT,
        env=run_tools.environment(devices),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    with np.load(target) as file:
        return dict(file)
