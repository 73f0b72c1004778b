"""What a user's own package adds: network, process, data set, head, task."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

PACKAGE = """
import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np

from ddae_jax import data, diffusion, heads, models, tasks
from ddae_jax.data import source, sources
from ddae_jax.diffusion.ddpm_samplers import DDIM
from ddae_jax.models.base import Network
from ddae_jax.settings.fields import setting


class Plain(Network):
    width: int = setting(4, "of the hidden layer", least=1, most=64)

    def tap_paths(self):
        return {"hidden": "hidden"}

    def tiny(self):
        return self.clone(width=2)

    @nn.compact
    def __call__(self, images, time, labels=None, augment_labels=None, train=False):
        self.check_inputs(images, labels, augment_labels)
        hidden = nn.Conv(self.width, (3, 3), name="hidden")(images)
        hidden = hidden + time[:, None, None, None]
        return nn.Conv(images.shape[-1], (3, 3), name="last")(nn.silu(hidden))


@dataclasses.dataclass(frozen=True)
class Short(diffusion.DDPM):
    timesteps: int = setting(20, "steps", least=2, most=100)


def stripes(split, *, folder, image_size, channels, resident_bytes):
    count = 40 if split == "train" else 20
    labels = np.arange(count) % 2
    images = np.zeros((count, 6, 6, 1), np.uint8)
    images[labels == 1, ::2] = 255
    names = ("plain", "striped")
    return source.from_arrays(
        "stripes", split, images, labels, names, image_size, channels, resident_bytes
    )


@dataclasses.dataclass(frozen=True)
class NearestMean:
    def score(self, features):
        def fit(inputs, labels):
            return np.stack([inputs[labels == c].mean(0) for c in range(2)])

        def accuracy(means, inputs, labels):
            distances = ((inputs[:, None] - means) ** 2).sum(-1)
            return float((distances.argmin(1) == labels).mean())

        x, y, out = features.train, features.labels, features.held_out
        choosing, final = fit(x[~out], y[~out]), fit(x, y)
        return (
            accuracy(choosing, x[out], y[out]),
            accuracy(final, features.test, features.test_labels),
            {},
        )

    def protocol(self):
        return {"distance": "euclidean"}


@dataclasses.dataclass(frozen=True)
class TwoLayers:
    pooled: bool = True

    def check(self, width):
        pass

    def protocol(self):
        return {"layers": 2}

    def init(self, key, width, class_count):
        first, last = jax.random.split(key)
        draw = jax.nn.initializers.lecun_normal()
        return {"first": draw(first, (width, 8)), "last": draw(last, (8, class_count))}

    def logits(self, head, features):
        return jax.nn.relu(features @ head["first"]) @ head["last"]


@dataclasses.dataclass(frozen=True)
class CountSettings:
    power: int = setting(1, "of the count", least=1, most=3)


models.register_network("plain", Plain)
diffusion.register_process("short", Short, {"ddim": DDIM})
sources.register_source("stripes", stripes)
heads.register_head("nearest_mean", lambda probe: NearestMean())
heads.register_head("two_layers", lambda probe: TwoLayers(), trained=True)
tasks.register_task("count", "mine.count", "counts parameters", CountSettings)
"""
TASK = """
import jax


def run(experiment):
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.trained().params))
    power = experiment.settings.section("count").power
    experiment.write_json("count.json", {"count": count**power})
"""


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "site" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "count.py").write_text(TASK)
    return folder.parent


def run(package, *words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "ddae_jax.main", *words],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{package}"},
        cwd=package,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_package_of_the_users_own_trains_samples_probes_and_goes_on(
    package, tmp_path
):
    workdir = tmp_path / "run"
    fields = (
        *("imports=mine", "network.name=plain", "process.name=short"),
        *("data.name=stripes", "train.steps=3", "train.batch_size=8"),
        *("sampler.steps=4", "sample.count=4", "sample.batch_size=4"),
        *("probe.classifier=nearest_mean", "probe.times=1,5", "probe.held_out=0.5"),
        "network.width=3",
    )
    run(
        package,
        "--config=digits",
        f"--workdir={workdir}",
        "--task=pretrain,sample,probe,report,count",
        *(f"--config.{field}" for field in fields),
    )
    weights = (9 * 3 + 3) + (9 * 3 + 1)
    assert json.loads((workdir / "count.json").read_text()) == {"count": weights}
    assert np.load(workdir / "samples.npz")["arr_0"].shape == (4, 6, 6, 1)
    probed = json.loads((workdir / "probe.json").read_text())
    assert probed["data"] == "stripes"
    assert probed["protocol"]["distance"] == "euclidean"
    assert probed["baselines"]["pixels"]["chosen"]["test"] == 1
    # The workdir names the package: it is all that a later command needs.
    run(package, f"--workdir={workdir}", "--task=count", "--config.count.power=2")
    assert json.loads((workdir / "count.json").read_text()) == {"count": weights**2}
    run(package, f"--workdir={workdir}", "--task=count")
    assert json.loads((workdir / "count.json").read_text()) == {"count": weights}
    beyond = run(
        *(package, f"--workdir={workdir}", "--task=count", "--config.count.power=4"),
        status=2,
    )
    assert "config.count.power: 4 is not 1 or more, at most 3" in beyond

    trained = ("output=probe_two", "classifier=two_layers", "epochs=1", "batch_size=8")
    run(
        *(package, f"--workdir={workdir}", "--task=probe"),
        *(f"--config.probe.{field}" for field in trained),
    )
    probed = json.loads((workdir / "probe_two.json").read_text())
    assert probed["protocol"]["layers"] == 2
    asked = ("--config.probe.classifier=two_layers", "--config.probe.draws=2")
    error = run(
        *(package, f"--workdir={workdir}", "--task=probe", *asked),
        status=2,
    )
    assert "config.probe.draws: 2, but two_layers draws noise anew" in error


def test_a_package_that_is_not_there_is_named(package):
    error = run(package, "--config=digits", "--config.imports=mien", status=2)
    assert error.startswith("error: config.imports: 'mien'") and error.count("\n") == 1


def install(package, entry):
    """What `pip install` leaves of a package with an entry point."""
    about = package / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[ddae_jax]\n{entry}\n")


def test_an_installed_package_is_found_by_itself(package):
    install(package, "mine = mine")
    words = ("--config=digits", "--config.network.name=plain")
    error = run(package, *words, "--config.network.width=0", status=2)
    assert error.startswith("error: config.network.width: 0 is not 1 or more")


def test_an_installed_package_that_is_broken_is_named(package):
    install(package, "gone = mine.gone")
    error = run(package, "--config=digits", status=2)
    assert error.startswith("error: mine: its entry point 'gone' of the group")
    assert error.count("\n") == 1
