"""launch/local.sh with real processes: preflight, training, a stop, going on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.tools import runs as run_tools


def start(*words):
    return subprocess.Popen(
        ["bash", "launch/local.sh", "2", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.campaign
def test_two_processes_pretrain_the_digits(tmp_path):
    process = start("--config=digits:test", "--task=pretrain", f"--workdir={tmp_path}")
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert found["passed"] and found["processes"] == 2
    assert (tmp_path / "checkpoints" / "4").is_dir()


@pytest.mark.slow
def test_two_processes_that_are_stopped_save_and_go_on(tmp_path):
    """SIGUSR1, as before the end of a cluster's time, saves at one step of both."""
    process = start(*run_tools.pretraining(tmp_path, 100_000))
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 143, errors
    assert errors.count("stopped by signal at step") == 2
    stopped = max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    process = start(*run_tools.pretraining(tmp_path, stopped + 2))
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert f"resuming from step {stopped}" in errors


@pytest.mark.slow
def test_a_refused_preflight_is_one_line_of_each(tmp_path):
    words = run_tools.pretraining(tmp_path, 4, "--config.preflight.devices=16")
    process = start(*words)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    line = "error: preflight: 2 devices, but config.preflight.devices=16"
    assert errors.count(line) == 2
    assert not (tmp_path / "checkpoints").exists()
