"""config.mesh.tensor: the losses of one device, and parameters that stay shared."""

import json

import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.models.dit import DiT
from ddae_jax.models.unet import UNet
from tests.tools import runs as run_tools

TRANSFORMER = (
    "--config=configs/digits.py:test",
    "--config.network.name=dit",
    "--config.network.hidden_size=64",
    "--config.network.depth=2",
    "--config.network.heads=4",
    "--config.network.num_classes=0",
    "--config.network.learned_variance=False",
    "--config.train.batch_size=16",
    "--config.train.sample_every=0",
    "--config.train.log_every=1",
)
SHARED = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
SAMPLE = ("--task=sample", "--config.sampler.steps=4")


def training(workdir, steps):
    words = ("--task=pretrain", f"--workdir={workdir}", f"--config.train.steps={steps}")
    return (*TRANSFORMER, *words)


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def samples(workdir):
    with np.load(workdir / "samples.npz") as drawn:
        return drawn["arr_0"].astype(int)


@pytest.mark.slow
def test_eight_devices_that_share_heads_train_and_sample_as_one_does(tmp_path):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    run_tools.run_each(
        [
            (*training(shared, 4), *SHARED),
            (f"--workdir={shared}", *SAMPLE, *SHARED),
        ],
        devices=8,
    )
    main.run(["main", *training(alone, 6)])
    ours, theirs = losses(shared), losses(alone)
    for step in range(1, 5):
        np.testing.assert_allclose(ours[step], theirs[step], rtol=1e-4)
    drawn = samples(shared)
    one = ("--config.mesh.fsdp=1", "--config.mesh.tensor=1")
    main.run(["main", f"--workdir={shared}", *SAMPLE, *one])
    assert np.abs(samples(shared) - drawn).max() <= 1
    # The checkpoint of eight devices goes on, on one.
    main.run(["main", *training(shared, 6), *one])
    for step in (5, 6):
        np.testing.assert_allclose(losses(shared)[step], theirs[step], rtol=1e-3)


def test_what_cannot_be_shared_is_one_line():
    DiT(heads=6, hidden_size=48).check_tensor_parallel(3)
    with pytest.raises(UserError, match=r"mesh\.tensor: 4 .* the 6 attention heads"):
        DiT(heads=6, hidden_size=48).check_tensor_parallel(4)
    UNet().check_tensor_parallel(1)
    with pytest.raises(UserError, match=r"mesh\.tensor: 2, but UNet has no rules"):
        UNet().check_tensor_parallel(2)
