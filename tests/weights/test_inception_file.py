"""Inception's weights file: its hash, its cache, and the task that takes it."""

import hashlib
import json

import jax
import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.weights import inception_file
from ddae_jax.weights.inception import params_from_torch
from tests.tools import fid as fid_tools
from tests.tools import golden_values
from tests.tools.inception_state import inception_state

torch = pytest.importorskip("torch", reason="torch is the reference here")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def state():
    return inception_state(golden_values.load("inception_fid")[0])


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    """A file of random weights, named by its hash as torch hub's files are."""
    folder = tmp_path_factory.mktemp("weights")
    plain = folder / "weights.pth"
    torch.save({name: torch.tensor(array) for name, array in state.items()}, plain)
    digits = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    return plain.rename(folder / f"pt_inception-2015-12-05-{digits}.pth")


def test_weights_are_converted_once(state, path, tmp_path, monkeypatch):
    first = inception_file.load(path, tmp_path)
    assert not first.published
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception_file.torch_files, "read", None)
    again = inception_file.load(path, tmp_path)
    assert again.sha256 == first.sha256
    for params in (first.params, again.params):
        jax.tree.map(np.testing.assert_array_equal, params, params_from_torch(state))
    # Without the file, only the published weights will do.
    with pytest.raises(UserError, match="no file is given"):
        inception_file.load("", tmp_path)
    published = tmp_path / f"inception-{inception_file.HASH_PREFIX}{'0' * 56}"
    (tmp_path / f"inception-{first.sha256}").rename(published)
    assert inception_file.load("", tmp_path).published


def test_files_that_cannot_be_used_are_named(path, tmp_path):
    with pytest.raises(UserError) as raised:
        inception_file.load(tmp_path / "none.pth", tmp_path)
    message = str(raised.value)
    for part in (
        "there is no file",
        "pt_inception-2015-12-05-6726825d.pth",
        "sha256 begins 6726825d",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
    ):
        assert part in message
    assert "\n" not in message
    # As the published file, or cut short.
    for name in (inception_file.FILE_NAME, path.name):
        wrong = tmp_path / name
        wrong.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"has sha256 \w{8}\.\.\., not "):
            inception_file.load(wrong, tmp_path)
    other = tmp_path / "other.pth"
    torch.save({"fc.bias": torch.zeros(3)}, other)
    with pytest.raises(UserError, match=r"other.pth: tensors do not fit Inception"):
        inception_file.load(other, tmp_path)
    assert not list(tmp_path.glob("inception-*"))


def test_the_task_takes_inception(path, tmp_path):
    for name, seed, count in (("samples", 0, 4), ("reference", 1, 5)):
        pixels = fid_tools.images(count, seed, (8, 8, 3))
        fid_tools.write_folder(tmp_path / name, pixels)
    words = [
        "main",
        "--config=configs/digits.py:test",
        "--task=fid",
        f"--workdir={tmp_path / 'run'}",
        "--config.fid.features=",
        f"--config.fid.inception={path}",
        f"--config.fid.cache={tmp_path / 'cache'}",
        f"--config.fid.samples={tmp_path / 'samples'}",
        f"--config.fid.reference={tmp_path / 'reference'}",
        "--config.fid.test_images=False",
        "--config.fid.batch_size=4",
        "--config.fid.resize=clean",
    ]
    main.main(words)
    report = json.loads((tmp_path / "run" / "fid.json").read_text())
    assert report["distance"] == "FID" and report["fid"] > 0
    protocol = report["protocol"]
    assert protocol["resize"] == "clean" and protocol["feature_width"] == 2048
    assert protocol["weights"] == "not the published ones"
    assert protocol["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "clean resize" in report["summary"]
    assert 1 <= report["inception_score"]["mean"] <= 2
    assert protocol["inception_score_splits"] == 2
    metrics = [row[0] for row in report["shown"]["rows"]]
    assert metrics == ["FID", "Inception score", "precision", "recall", "KID"]
    assert "4 samples cannot fill 2,048 dimensions" in report["shown"]["note"]
