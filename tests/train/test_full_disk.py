"""A disk that fills up while tasks write, and the same command when there is space."""

import os
import pathlib
import subprocess

import pytest

from ddae_jax.runtime import log
from tests.tools import runs as run_tools

CAP_SYS_ADMIN = 21
PROBE = (
    "--config.probe.seeds=1",
    "--config.probe.train_count=200",
    "--config.probe.test_count=100",
)


def can_mount():
    """Whether this process may, as Linux tells it."""
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    effective = [int(line[7:], 16) for line in lines if line.startswith("CapEff:")]
    return any(bits >> CAP_SYS_ADMIN & 1 for bits in effective)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_mount(), reason="needs the right to mount a disk"),
]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*words):
    subprocess.run(["mount", *words], check=True, capture_output=True)


def test_tasks_go_on_when_there_is_space(disk):
    training = run_tools.pretraining(
        disk / "run",
        12,
        "--config.train.checkpoint_every=2",
        "--config.train.keep_every=2",
    )
    one_line(run_tools.run(*training, status=1))
    names = os.listdir(disk / "run" / "checkpoints")
    last = max(int(name) for name in names if name.isdigit())
    assert run_tools.saved_state(disk / "run", last)["['step']"] == last < 12
    mount("-o", "remount,size=200m", str(disk))
    run_tools.run(*training)
    assert [row["step"] for row in log.read_metrics(disk / "run")] == [*range(1, 13)]

    for task, file, *words in (
        ("sample", "samples.npz", "--config.sample.count=64"),
        ("probe", "probe.json", *PROBE),
    ):
        task = (f"--workdir={disk / 'run'}", f"--task={task}", *words)
        filler = disk / "filler"
        fill(filler)
        one_line(run_tools.run(*task, status=1))
        filler.unlink()
        run_tools.run(*task)
        assert (disk / "run" / file).is_file()


def fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def one_line(errors):
    lines = errors.splitlines()
    assert lines[-1].startswith("error: no space left on the disk"), errors
    assert "Traceback" not in errors and "Event loop" not in errors
