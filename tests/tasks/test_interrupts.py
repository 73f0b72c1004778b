"""Ctrl-C in every task: one line, status 130, and nothing half done is left."""

import signal
import time

import pytest

from tests.tools import runs as run_tools

TASKS = {
    "sample": ("--config.sample.count=100000", "--config.sampler.steps=50"),
    "probe": ("--config.probe.train_count=0", "--config.probe.draws=50"),
    "contrastive": ("--config.contrastive.count=0",),
    "dense": ("--config.dense.train_count=0", "--config.dense.batch_size=1"),
    "fid": ("--config.fid.count=100000", "--config.sampler.steps=50"),
    "track": ("--config.fid.count=100000", "--config.sampler.steps=50"),
    "predict": ("--config.predict.head=probe", "--config.predict.images=tests/data"),
    "export": ("--config.export.path=nowhere",),
    "report": (),
}


LONG = ("sample", "probe", "contrastive", "dense", "fid", "track")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "seconds"), [(task, 0) for task in TASKS] + [(task, 6) for task in LONG]
)
def test_an_interrupt_is_one_line(pretrained_copy, task, seconds):
    """At once, while it imports, and later, while it compiles or computes."""
    process = run_tools.start(
        *run_tools.TINY, f"--workdir={pretrained_copy}", f"--task={task}", *TASKS[task]
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if f"task {task} in" in line:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)[::-1]
    text = "".join(lines) + (rest or "")
    assert "Traceback" not in text
    assert process.returncode == 130, text
    last = text.splitlines()[-1]  # the latter where heads are trained
    assert "the same command goes on" in last or "stopped by signal" in last
    assert not list(pretrained_copy.glob("*.part"))
