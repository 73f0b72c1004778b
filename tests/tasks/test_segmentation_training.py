"""The training of segmentation heads: stopped, diverging, several steps at a time."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.heads import segmentation
from ddae_jax.runtime import log
from ddae_jax.tasks import dense
from ddae_jax.tasks.dense import segmentation_training
from tests.tools import compilations
from tests.tools import dense as dense_tools
from tests.tools.experiments import experiment_of

pytestmark = pytest.mark.slow

STEPS = 8  # 2 epochs of 60 images, 16 at a time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a workdir, and images with masks."""
    folder = tmp_path_factory.mktemp("segmentation")
    (folder / "run").mkdir()
    dense_tools.write_checkpoint(folder / "run")
    dense_tools.write_task(folder / "train", 60, 0)
    dense_tools.write_task(folder / "test", 5, 1)
    return folder


@pytest.fixture
def workdir(folder, tmp_path):
    return shutil.copytree(folder / "run", tmp_path / "run")


def make_config(folder, **fields):
    config = dense_tools.segmentation_config(folder / "train", folder / "test")
    config.dense.taps, config.dense.epochs = ("out_1",), 2
    for name, value in fields.items():
        config.dense[name] = value
    return config


def heads_of(config, workdir, monkeypatch):
    """The two sets of heads that the task trains, as numpy arrays."""
    found = []
    fit = segmentation_training.fit

    def keep(*arguments):
        found.append(fit(*arguments))
        return found[0]

    with monkeypatch.context() as patched:
        patched.setattr(segmentation_training, "fit", keep)
        dense.run(experiment_of(config, workdir))
    (both,) = found
    return jax.tree.map(np.asarray, both)


def at_update(monkeypatch, number, call):
    """Calls `call` before update `number` of the heads, from 0; returns the count."""
    update, done = segmentation.update, []

    def counted(*arguments):
        if len(done) == number:
            call()
        done.append(None)
        return update(*arguments)

    monkeypatch.setattr(segmentation, "update", counted)
    return done


@pytest.mark.parametrize(
    ("number", "status"),
    [pytest.param("SIGTERM", 0, marks=pytest.mark.slow), ("SIGINT", 130)],
)
def test_stopped_and_gone_on_gives_the_same_heads(
    folder, workdir, tmp_path, monkeypatch, number, status
):
    config = make_config(folder)
    whole = shutil.copytree(workdir, tmp_path / "whole")
    expected = heads_of(config, whole, monkeypatch)
    assert not (whole / "dense_heads").exists()  # nothing will go on in it

    with monkeypatch.context() as patched:
        send = signal.Signals[number]
        done = at_update(patched, 3, lambda: os.kill(os.getpid(), send))
        with pytest.raises(SystemExit) as stopped:
            dense.run(experiment_of(config, workdir))
    assert stopped.value.code == status and len(done) == 4
    assert not (workdir / "dense.json").exists()

    with monkeypatch.context() as patched:
        done = at_update(patched, -1, lambda: None)
        found = heads_of(config, workdir, monkeypatch)
    assert len(done) == STEPS - 4
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_other_settings_left_is_not_gone_on_with(folder, workdir, monkeypatch):
    with monkeypatch.context() as patched:
        at_update(patched, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            dense.run(experiment_of(make_config(folder), workdir))
    done = at_update(monkeypatch, -1, lambda: None)
    dense.run(experiment_of(make_config(folder, learning_rate=1e-3), workdir))
    assert len(done) == STEPS


def test_a_loss_that_is_not_finite_is_one_line(folder, workdir):
    # Beyond what the config takes, where the loss of so few pixels is finite yet.
    experiment = experiment_of(make_config(folder), workdir)
    with pytest.raises(
        UserError, match=r"not finite; .*; lower config\.dense\.learning_rate"
    ) as raised:
        dense.run(experiment.changed("dense", learning_rate=1e37))
    assert "\n" not in str(raised.value)


def test_learning_rates_are_logged(folder, workdir, monkeypatch):
    monkeypatch.setattr("ddae_jax.tasks.dense.segmentation.clear", lambda folder: None)
    dense.run(experiment_of(make_config(folder, learning_rate=0.5), workdir))
    rows = log.read_metrics(workdir / "dense_heads")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    rates = [row["learning_rate"] for row in rows]
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_steps_per_dispatch_do_not_change_the_heads(folder, workdir, monkeypatch):
    config = make_config(folder, epochs=10)  # 38 steps, between events of 3 and 7
    counts, dispatch = [], segmentation_training._Trainer.dispatch

    def counted(self, state, step, count):
        counts.append(count)
        return dispatch(self, state, step, count)

    monkeypatch.setattr(segmentation_training._Trainer, "dispatch", counted)
    one = heads_of(config, workdir, monkeypatch)
    assert set(counts) == {1} and len(counts) == 38
    counts.clear()
    config.train.steps_per_dispatch = 3
    three = heads_of(config, workdir, monkeypatch)
    assert {3, 1} <= set(counts) and sum(counts) == 38
    jax.tree.map(np.testing.assert_array_equal, one, three)


def test_a_second_training_compiles_nothing(folder, workdir):
    config = make_config(folder)
    dense.run(experiment_of(config, workdir))
    config.seed = 1
    with compilations.names() as compiled:
        dense.run(experiment_of(config, workdir))
    assert compiled == []
