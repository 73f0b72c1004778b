"""SIGKILL at random moments: the same command goes on, and nothing is lost."""

import pytest

from tests.tools import kills
from tests.tools import runs as run_tools

TASKS = {
    "sample": (
        "--config.sample.count=256",
        "--config.sample.batch_size=64",
        "--config.sampler.steps=10",
    ),
    "probe": (
        "--config.probe.seeds=1",
        "--config.probe.train_count=200",
        "--config.probe.test_count=100",
    ),
    "finetune": (
        "--config.finetune.epochs=3",
        "--config.finetune.train_count=64",
        "--config.finetune.test_count=32",
        "--config.finetune.batch_size=16",
        "--config.finetune.tap=out_1",
    ),
    "fid": (
        "--config.fid.classifier_steps=20",
        "--config.fid.count=200",
        "--config.sampler.steps=2",
    ),
    "noisy_classifier": (
        "--config.noisy_classifier.checkpoint_every=4",
        "--config.noisy_classifier.log_every=2",
        "--config.noisy_classifier.test_times=1,301,951",
    ),
}
SEED = 3


def undisturbed(words, workdir, fresh):
    """(timeline, what it leaves) of a run that nobody kills, compiled before."""
    for _ in range(2):
        kills.begin(workdir, fresh)
        times = kills.timeline(words, workdir.with_name("undisturbed.log"))
    return times, kills.left(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("trials", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_pretraining_that_is_killed(tmp_path, trials):
    def words(workdir):
        every = "--config.train.checkpoint_every=3"
        return run_tools.pretraining(workdir, 12, every)

    reference = tmp_path / "reference"
    times, expected = undisturbed(words(reference), reference, None)
    workdir = tmp_path / "run"
    print(
        kills.kill_often(trials, words(workdir), workdir, None, expected, times, SEED)
    )


@pytest.mark.campaign
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_is_killed_five_times(tmp_path, pretrained, task):
    def words(workdir):
        ours = (f"--workdir={workdir}", f"--task={task}")
        return (*run_tools.TINY, *ours, *TASKS[task])

    reference = tmp_path / "reference"
    times, expected = undisturbed(words(reference), reference, pretrained)
    workdir = tmp_path / "run"
    done = kills.kill_often(
        5, words(workdir), workdir, pretrained, expected, times, SEED
    )
    print(done)
