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
# These log a line before they compute.
LONG = ("sample", "probe", "contrastive", "dense", "fid", "track")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "lines"), [(task, 1) for task in TASKS] + [(task, 2) for task in LONG]
)
def test_an_interrupt_is_one_line(pretrained_copy, task, lines):
    """At once, while it imports, and after its first line, while it computes."""
    process = run_tools.start(
        *run_tools.TINY, f"--workdir={pretrained_copy}", f"--task={task}", *TASKS[task]
    )
    seen = []
    for line in process.stderr:
        if seen or f"task {task} in" in line:
            seen.append(line)
        if len(seen) == lines:
            break
    process.send_signal(signal.SIGINT)
    try:
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    text = "".join(seen) + rest
    assert "Traceback" not in text
    assert process.returncode == 130, text
    last = text.splitlines()[-1]  # the latter where something is trained
    assert "the same command goes on" in last or "stopped by signal" in last
    assert not list(pretrained_copy.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_an_interrupt_of_the_compiler_is_one_line(tmp_path, seconds):
    """XLA's threads cannot be stopped: they must not crash Python while it ends."""
    process = run_tools.start(
        "--config=digits:test", f"--workdir={tmp_path}", "--task=pretrain"
    )
    for line in process.stderr:
        if "compiling takes a while" in line:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "Traceback" not in text and "Fatal" not in text
