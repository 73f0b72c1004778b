"""A workdir of version 0.1 (commit f3e0d1b, U-ViT on digits) is read."""

import json
import shutil
import tarfile

import numpy as np
import pytest

import ddae_jax
from ddae_jax import main
from ddae_jax.settings import saved
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests/golden/workdir_0_1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "v01"


def test_its_denoiser_gives_what_it_gave(workdir):
    model = ddae_jax.load(workdir)
    with np.load(workdir / "denoised.npz") as known:
        ours = model.denoise(known["noisy"], 0.5)
        np.testing.assert_allclose(ours, known["clean"], atol=1e-5)


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    main.run(["main", f"--workdir={copy}", "--task=pretrain", "--config.train.steps=6"])
    assert (copy / "checkpoints" / "6").is_dir()


@pytest.mark.parametrize("switch, policy", [(True, "full"), (False, "none")])
def test_its_switch_of_recomputation_is_a_policy_now(workdir, tmp_path, switch, policy):
    config = json.loads((workdir / "config.json").read_text())
    config["network"]["remat"] = switch
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert saved.read(tmp_path).network.remat == policy
