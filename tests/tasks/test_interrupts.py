"""Ctrl-C and SIGTERM in every task: one line, the status, and nothing half done."""

import signal
import time

import pytest

from ddae_jax.tasks import TASKS
from tests.tools import golden_values
from tests.tools import runs as run_tools

WORDS = {
    "sample": ("--config.sample.count=100000", "--config.sampler.steps=50"),
    "probe": ("--config.probe.train_count=0", "--config.probe.draws=50"),
    "contrastive": ("--config.contrastive.count=0",),
    "diagnose": ("--config.diagnose.count=0",),
    "dense": ("--config.dense.train_count=0", "--config.dense.batch_size=1"),
    "fid": ("--config.fid.count=100000", "--config.sampler.steps=50"),
    "track": ("--config.fid.count=100000", "--config.sampler.steps=50"),
    "finetune": ("--config.finetune.tap=out_1", "--config.finetune.epochs=1000"),
    "noisy_classifier": ("--config.noisy_classifier.features.epochs=1000",),
    "pretrain": ("--config.train.steps=100000",),
    "predict": ("--config.predict.head=probe", "--config.predict.images=tests/data"),
    "export": ("--config.export.path=nowhere",),
    "explore": (),
    "report": (),
    "preflight": (),
}
# They log a line before they compute.
LONG = (
    "sample",
    "probe",
    "contrastive",
    "dense",
    "explore",
    "fid",
    "track",
    "finetune",
    "noisy_classifier",
    "pretrain",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OFTEN = ("probe",)  # of the others, in the campaign
# `import`, `encode` and `reid` need other data (below); `prepare` needs a network.
APART = {"import", "encode", "prepare", "reid"}


def cases():
    for task in WORDS:
        for number in SIGNALS:
            for lines in (1, 2) if task in LONG else (1,):
                often = task in OFTEN and lines == 2
                marks = pytest.mark.slow if often else pytest.mark.campaign
                yield pytest.param(task, lines, number, marks=marks)


def test_every_task_is_interrupted_here():
    assert WORDS.keys() | APART == TASKS.keys()


@pytest.mark.parametrize(("task", "lines", "number"), cases())
def test_a_signal_is_one_line(pretrained_copy, task, lines, number):
    """At once, while it imports, and after its first line, while it computes."""
    ours = (f"--workdir={pretrained_copy}", f"--task={task}")
    is_stopped(task, lines, number, *run_tools.TINY, *ours, *WORDS[task])
    assert not list(pretrained_copy.glob("*.part"))


@pytest.mark.campaign
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_where_files_are_read(tmp_path, number):
    weights = golden_values.write_weights(tmp_path, "vae_small")
    path = f"--config.import_weights.path={weights}"
    vae = tmp_path / "vae"
    importing = (f"--workdir={vae}", "--task=import", path)
    is_stopped("import", 1, number, *importing)
    run_tools.run(*importing)
    is_stopped(
        "encode",
        1,
        number,
        "--config=configs/digits.py:test",
        f"--workdir={tmp_path / 'run'}",
        "--task=encode",
        f"--config.autoencoder.folder={vae}",
        "--config.data.channels=3",
    )


@pytest.mark.campaign
@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_line_where_persons_are_found(tmp_path, lines, number):
    ours = ("--config=configs/reid_demo.py:test", f"--workdir={tmp_path}")
    endless = ("--config.reid.epochs=100000", "--config.reid.log_every=100")
    is_stopped("reid", lines, number, *ours, "--task=reid", *endless)


def is_stopped(task, lines, number, *words):
    """Sends the signal after so many lines of the task's and reads how it ends."""
    process = run_tools.start(*words)
    seen = []
    for line in process.stderr:
        if seen or f"task {task} in" in line:
            seen.append(line)
        if len(seen) == lines:
            break
    process.send_signal(number)
    try:
        _, rest = process.communicate(timeout=100)
    finally:
        process.kill()
    text = "".join(seen) + rest
    assert "Traceback" not in text
    last = text.splitlines()[-1]
    if last.endswith(", saved"):
        assert process.returncode == (130 if number == signal.SIGINT else 0), text
        return
    assert "the same command goes on" in last, text
    assert process.returncode == (130 if number == signal.SIGINT else 143), text


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
