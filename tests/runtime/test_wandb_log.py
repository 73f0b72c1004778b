"""Weights & Biases beside TensorBoard: kept on, and never in the way of a training."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import log, wandb_log
from tests.tools import runs as run_tools


class Recorded:
    def __init__(self, fails):
        self.rows, self.fails, self.finished = [], fails, False

    def log(self, values, step):
        if self.fails:
            raise ConnectionError("the service\nis gone")
        self.rows.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def service(monkeypatch):
    """wandb as far as it is called; opened holds what `init` was given."""
    made = types.ModuleType("wandb")
    made.opened, made.fails = [], False

    def init(**options):
        made.opened.append(options)
        made.run = Recorded(made.fails)
        return made.run

    made.init, made.Settings = init, lambda **options: options
    made.Image = lambda image: image.shape
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


def test_a_run_that_goes_on_keeps_its_id_and_config(service, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    for step in (1, 2):
        metrics = log.Metrics(tmp_path, step - 1, wandb="mine")
        metrics.write(step, {"loss": 0.5})
        metrics.image(step, "samples", np.zeros((4, 6, 3), np.uint8))
        metrics.close()
        assert service.run.finished
        rows = [(step, {"loss": 0.5}), (step, {"samples": (4, 6, 3)})]
        assert service.run.rows == rows
    first, second = service.opened
    assert first["id"] == second["id"] and first["project"] == "mine"
    assert first["config"] == {"seed": 3}
    assert [row["step"] for row in log.read_metrics(tmp_path)] == [1, 2]


def test_what_fails_there_is_told_once_and_ends_nothing(service, tmp_path, caplog):
    service.fails = True
    metrics = log.Metrics(tmp_path, 0, wandb="mine")
    for step in (1, 2):
        metrics.write(step, {"loss": 0.5})
    metrics.close()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["wandb: the service is gone; the run goes on without it"]
    assert len(log.read_metrics(tmp_path)) == 2


def test_without_the_library_the_extra_is_named(monkeypatch):
    wandb_log.check("")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"config\.train\.wandb: .*ddae_jax\[wandb\]"):
        wandb_log.check("mine")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="needs wandb: pip install wandb"
)
def test_the_real_library_keeps_an_offline_run(tmp_path):
    words = [*run_tools.TINY, "--task=pretrain", "--config.train.wandb=mine"]
    subprocess.run(
        [sys.executable, "-m", "ddae_jax.main", *words, f"--workdir={tmp_path}"],
        check=True,
        env=os.environ | {"WANDB_MODE": "offline"},
    )
    assert json.loads((tmp_path / "wandb.json").read_text())["project"] == "mine"
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert kept.stat().st_size > 0
