"""1 process x 4 devices, 2 x 2 and 4 x 1: the same results of every task.

The real launcher, the real command line. One run of 1 x 4 is what all are compared
with; nothing but the order of sums may differ between them.
"""

import json
import shutil

import numpy as np
import pytest

from ddae_jax.runtime.log import read_metrics
from ddae_jax.tasks import TASKS
from tests.tools import data_files, golden_values, layouts
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools

pytestmark = pytest.mark.campaign

OTHERS = ("2x2", "4x1")
# `import`, `encode`, `reid` have a test of their own; `prepare` needs a network,
# and `explore` serves one process until it is stopped.
APART = ("preflight", "prepare", "import", "encode", "reid", "explore")
# Weights after four steps differ by 1e-6 of themselves; a converged logistic head, and
# what follows from it, by what its solver leaves.
TOLERANCES = (
    ("head.npz", 0, 2e-2),
    ("predict", 1e-2, 1e-5),
    ("features.npz", 1e-4, 1e-5),
    ("", 1e-4, 1e-6),
)


def words(workdir, images, *more):
    fields = {
        "train.steps": 4,
        "train.keep_every": 2,
        "sample.png_folder": True,
        "fid.cache": workdir / "cache",
        "fid.classifier_steps": 2,
        "probe.baselines": False,
        "probe.seeds": 1,
        "probe.shifts": 1,
        "contrastive.steps": "(4,)",
        "track.steps": "(4,)",
        "track.measures": "('fid',)",
        "finetune.epochs": 1,
        "noisy_classifier.kinds": "('features',)",
        "noisy_classifier.test_times": "(1,)",
        "predict.images": images,
        "export.path": workdir / "export",
    }
    tasks = ",".join(name for name in TASKS if name not in APART)
    ours = (f"--config.{field}={value}" for field, value in fields.items())
    return (*run_tools.TINY, f"--task={tasks}", f"--workdir={workdir}", *ours, *more)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts") / "images"
    return fid_tools.write_folder(folder, fid_tools.images(7, 0))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, images):
    """All tasks in one process."""
    workdir = tmp_path_factory.mktemp("layouts") / "1x4"
    layouts.run("1x4", *words(workdir, images))
    return workdir


def losses(workdir):
    return {row["step"]: row["loss"] for row in read_metrics(workdir)}


@pytest.mark.parametrize("layout", ["2x2", "4x1"])
def test_every_task_gives_the_same_and_process_0_alone_writes(
    layout, reference, images, tmp_path
):
    """The second half of the training, from the other's checkpoint, and all tasks."""
    workdir, audit = tmp_path / layout, tmp_path / "audit"
    (workdir / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "data.json", "metrics.jsonl"):
        shutil.copy(reference / name, workdir)
    shutil.copytree(reference / "checkpoints" / "2", workdir / "checkpoints" / "2")
    environment = layouts.audited(audit, workdir)
    told = layouts.run(layout, *words(workdir, images), environment=environment)
    assert "resuming from step 2" in told
    assert layouts.files(workdir) == layouts.files(reference)
    layouts.assert_same(
        layouts.results(reference), layouts.results(workdir), TOLERANCES
    )
    written = layouts.written(audit)
    assert str(workdir / "samples.png") in " ".join(written.pop(0))
    for paths in written.values():
        theirs = [
            p for p in paths if "/checkpoints" not in p and ".preflight-" not in p
        ]
        assert not theirs


@pytest.mark.parametrize("chain", [("2x2", "4x1", "1x4"), ("4x1", "2x2", "1x4")])
def test_checkpoints_move_between_all_layouts(chain, reference, tmp_path):
    """Each goes on where the one before stopped, with the parameters sharded or not."""
    for step, layout in enumerate(chain, 1):
        sharded = f"--config.mesh.fsdp={1 if layout == '1x4' else 2}"
        layouts.run(layout, *run_tools.pretraining(tmp_path, step, sharded))
    expected, found = losses(reference), losses(tmp_path)
    assert sorted(found) == [1, 2, 3]
    for step, loss in found.items():
        np.testing.assert_allclose(loss, expected[step], rtol=1e-5)


def test_import_and_encode_give_the_same_files(tmp_path):
    weights = golden_values.write_weights(tmp_path, "vae_small")
    fields = ("data.channels=3", "encode.file_images=500", "encode.batch_size=100")
    contents = {}
    for layout in layouts.LAYOUTS:
        vae, workdir = tmp_path / f"{layout}_vae", tmp_path / layout
        path = f"--config.import_weights.path={weights}"
        layouts.run(layout, f"--workdir={vae}", "--task=import", path)
        layouts.run(
            layout,
            "--config=configs/digits.py:test",
            f"--workdir={workdir}",
            "--task=encode",
            f"--config.autoencoder.folder={vae}",
            *(f"--config.{field}" for field in fields),
        )
        files = sorted((workdir / "latents").glob("*.npy"))
        contents[layout] = {path.name: np.load(path) for path in files}
        about = json.loads((workdir / "latents" / "latents.json").read_text())
        contents[layout]["about"] = about
    for layout in OTHERS:
        assert contents[layout].keys() == contents["1x4"].keys()
        for name, content in contents["1x4"].items():
            np.testing.assert_equal(contents[layout][name], content, err_msg=name)


def test_persons_are_found_alike(tmp_path):
    """Two networks, sets that are joined, and a set that streams."""
    persons = tmp_path / "persons"
    data_files.write_persons(persons)
    fields = (
        "data.name=market1501",
        f"data.folder={persons}",
        "data.resident_bytes=0",
        f"reid.more_training=('dukemtmc={persons}',)",
        "reid.mutual=True",
        "reid.identity_weight=1.0",
        "reid.log_every=1",
    )
    rows = {}
    for layout in layouts.LAYOUTS:
        workdir = tmp_path / layout
        layouts.run(
            layout,
            "--config=configs/reid_demo.py:test",
            f"--workdir={workdir}",
            "--task=reid",
            *(f"--config.{field}" for field in fields),
        )
        assert json.loads((workdir / "reid.json").read_text())["train_persons"] == 12
        rows[layout] = read_metrics(workdir / "reid")
    for layout in OTHERS:
        for ours, theirs in zip(rows[layout], rows["1x4"], strict=True):
            np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)


def test_an_error_of_process_0_alone_ends_all(reference, tmp_path):
    """While the features for an alignment are written: no other process waits."""
    folder = tmp_path / "network"
    fid_tools.write_network(folder)
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "alignment_features").write_text("a file where a folder must be")
    fields = ("on=True", "hidden=8", f"features={folder}")
    flags = (f"--config.objectives.alignment.{field}" for field in fields)
    process = layouts.start("2x2", *run_tools.pretraining(workdir, 2, *flags))
    _, told = process.communicate(timeout=400)
    assert process.returncode in (1, 2), told
    assert "[0] FileExistsError" in told
    assert "[1] error: process 0 has failed: FileExistsError" in told


def test_weights_to_start_from_and_features_to_align_with(reference, tmp_path):
    """Of a run in another layout, written by process 0 and read by all."""
    folder = tmp_path / "network"
    fid_tools.write_network(folder)
    fields = ("on=True", "hidden=8", f"features={folder}")
    flags = [f"--config.objectives.alignment.{field}" for field in fields]
    flags.append(f"--config.train.start_from={reference}")
    found = {}
    for layout in layouts.LAYOUTS:
        workdir = tmp_path / layout
        told = layouts.run(layout, *run_tools.pretraining(workdir, 2, *flags))
        assert f"start_from: EMA weights of step 4 of {reference}" in told
        (features,) = (workdir / "alignment_features").glob("*.npy")
        found[layout] = layouts.results(workdir), np.load(features)
    for layout in OTHERS:
        layouts.assert_same(found["1x4"][0], found[layout][0], TOLERANCES)
        np.testing.assert_allclose(found[layout][1], found["1x4"][1], rtol=1e-5)
