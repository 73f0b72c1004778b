"""Classifiers of noisy images: times, schedules, training."""

import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.diffusion import PROCESSES
from ddae_jax.heads.mlp import NoisyMLP
from ddae_jax.runtime import parallel
from ddae_jax.settings import schema
from ddae_jax.tasks import noisy_classifier
from ddae_jax.tasks.noisy_classifier.classifier import SGD, NoisyClassifier
from ddae_jax.tasks.noisy_classifier.training import Training
from ddae_jax.train.loop import Diverged
from ddae_jax.train.optimizers import Adam, CosineAfterWarmup
from tests.tools import runs as run_tools
from tests.tools.encoders import OneFeature
from tests.tools.probes import digit_parts

DDPM, EDM = PROCESSES["ddpm"](), PROCESSES["edm"]()
KEY = jax.random.key(0)


def test_times_of_the_publication():
    assert DDPM.test_times == tuple(range(1, 952, 50))
    assert EDM.test_times == tuple(range(1, 19))
    ddpm = DDPM.head_training_times(KEY, 20_000)
    assert (ddpm.min(), ddpm.max()) == (1, 1000) and (ddpm == ddpm.round()).all()
    np.testing.assert_array_equal(DDPM.head_condition(ddpm), ddpm)
    np.testing.assert_allclose(DDPM.classifier_condition(ddpm), ddpm / 1000)
    sigmas, counts = np.unique(
        np.asarray(EDM.head_training_times(KEY, 18_000)), return_counts=True
    )
    assert len(sigmas) == 18 and np.abs(counts - 1000).max() < 150
    expected = [EDM.official_time(i) for i in range(1, 19)]
    np.testing.assert_allclose(sigmas, expected, rtol=1e-6)
    told = EDM.head_condition(jnp.asarray(sigmas))
    np.testing.assert_allclose(told, np.arange(1, 19), atol=1e-4)
    logs = np.log(EDM.training_times(KEY, 20_000))
    assert logs.mean() == pytest.approx(-1.2, abs=0.03)
    assert logs.std() == pytest.approx(1.2, abs=0.03)
    np.testing.assert_allclose(
        EDM.classifier_condition(jnp.asarray(sigmas)), np.log(sigmas), atol=1e-5
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_can_be_tested(name):
    config = schema.default(process=name)
    process = schema.build(config).process
    times = noisy_classifier.test_times(config.noisy_classifier, process)
    assert 18 <= len(times) <= 20
    levels = [time.noise_level for time in times]
    assert levels == sorted(levels) and levels[0] > 0
    points = jnp.array([time.time for time in times], jnp.float32)
    for tell in (process.head_condition, process.classifier_condition):
        assert len(set(np.asarray(tell(points)).tolist())) == len(times)
    for draw in (process.head_training_times, process.training_times):
        assert np.isfinite(process.noise_level(draw(KEY, 50))).all()


@pytest.mark.slow
def test_the_schedule_is_the_published_one():
    torch = pytest.importorskip("torch")
    epochs, warmup, count, batch = 9, 3, 40, 16
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    rates = []
    for epoch in range(epochs):
        if epoch + 1 <= warmup:
            optimizer.param_groups[0]["lr"] = 0.1 * (epoch + 1) / warmup
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = CosineAfterWarmup(0.1, epochs, warmup, batch, count)
    steps = [-(-epoch * count // batch) for epoch in range(epochs)]
    np.testing.assert_allclose([ours(step) for step in steps], rates, rtol=1e-5)
    plain = CosineAfterWarmup(0.1, epochs, 0, batch, count)
    assert plain(0) == pytest.approx(0.1)
    assert plain(steps[3]) == pytest.approx(0.05 * (1 + np.cos(np.pi / 3)))
    longer = CosineAfterWarmup(0.1, 2, 3, batch, count)
    assert longer(steps[1]) == pytest.approx(0.2 / 3)


def noisy_pixels(x0, noise, time):
    """Features without a denoiser: the noisy image itself."""
    return DDPM.add_noise(x0, noise, time).reshape(len(x0), -1)


def make_training(learning_rate=4e-3, steps=200, **options):
    count = len(digit_parts()[0])
    schedule = CosineAfterWarmup(learning_rate, 10, 0, 64, count)
    return Training(
        NoisyClassifier(
            "MLP on pixels", NoisyMLP(10), DDPM, OneFeature("pixels", noisy_pixels)
        ),
        Adam(schedule, clip_norm=None),
        parallel.make_mesh(),
        steps=steps,
        batch_size=64,
        flip=False,
        crop=1,
        seed=0,
        learning_rate_field="the rate",
        **options,
    )


@pytest.mark.slow
def test_a_classifier_learns_what_the_noise_leaves(tmp_path):
    train, test = digit_parts()
    training = make_training(learning_rate=1e-2)
    state = training.fit(tmp_path, {}, train)
    assert int(state.step) == 200
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    losses = [line["loss"] for line in lines]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.2
    accuracies = training.accuracies(state.params, {}, test, (1.0, 301.0, 951.0))
    assert accuracies[0] > 0.75 > 0.6 > accuracies[1] > 0.25 > accuracies[2] > 0.03
    other = dataclasses.replace(training, batch_size=100)
    np.testing.assert_allclose(
        other.accuracies(state.params, {}, test, (1.0, 301.0, 951.0)),
        accuracies,
        atol=0.0021,
    )
    # A finished run is not trained again.
    again = training.fit(tmp_path, {}, train)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def test_resumed_and_streamed_runs_are_the_uninterrupted_one(tmp_path):
    train = data_source.subset(digit_parts()[0], np.arange(100))
    streamed = dataclasses.replace(train, images=None, reader=train.read)
    training = make_training(steps=5, log_every=2, checkpoint_every=4, threads=2)
    whole = training.fit(tmp_path / "whole", {}, train)
    short = dataclasses.replace(training, steps=3)
    assert int(short.fit(tmp_path / "resumed", {}, train).step) == 3
    resumed = training.fit(tmp_path / "resumed", {}, streamed)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    other = dataclasses.replace(training, seed=1).fit(tmp_path / "other", {}, train)
    assert not np.allclose(
        other.params["classes"]["bias"], whole.params["classes"]["bias"]
    )


def print_trained(folder):
    """For a process with other devices: what five steps lead to."""
    training = make_training(steps=5)
    state = training.fit(folder, {}, digit_parts()[0])
    bias = np.asarray(state.params["classes"]["bias"]).tolist()
    accuracies = training.accuracies(state.params, {}, digit_parts()[1], (1.0, 301.0))
    print(json.dumps([jax.device_count(), bias, accuracies]))


@pytest.mark.slow
def test_devices_do_not_change_the_result(tmp_path, capsys):
    print_trained(tmp_path / "1")
    _, bias, accuracies = json.loads(capsys.readouterr().out)
    code = (
        "import sys, pathlib; "
        "from tests.tasks import test_noisy_classifier_parts as test; "
        "test.print_trained(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "4"],
        cwd=run_tools.ROOT,
        env=run_tools.environment(devices=4),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.returncode == 0, process.stderr
    count, split_bias, split_accuracies = json.loads(process.stdout)
    assert count == 4
    np.testing.assert_allclose(split_bias, bias, atol=1e-5)
    np.testing.assert_allclose(split_accuracies, accuracies, atol=0.0021)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    training = make_training(steps=8, log_every=4, checkpoint_every=4)

    def rate(step):
        return jnp.where(step > 4, jnp.nan, 4e-3)

    bad = Adam(rate, clip_norm=None)
    training = dataclasses.replace(training, optimizer=bad)
    with pytest.raises(
        Diverged, match=r"step 7: not finite.*step 4; lower the rate"
    ) as e:
        training.fit(tmp_path, {}, digit_parts()[0])
    assert "\n" not in str(e.value)


class Half(nn.Module):
    """Of its parameters, "b" stays."""

    def trainable(self, params):
        return {name: name != "b" for name in params}


def test_weight_decay_leaves_fixed_parameters():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = SGD(lambda step: 0.1, 0.9, 0.5, Half())
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.05)
    np.testing.assert_array_equal(updates["b"], 0)
