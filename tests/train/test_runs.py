"""Training as users run it: killed, stopped, resumed, diverging, on many devices."""

import functools
import pathlib
import random
import shutil
import signal
import socket
import tempfile
import time

import jax
import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import log
from ddae_jax.train.pretraining import Pretraining
from tests.tools import data_files, reads
from tests.tools import runs as run_tools

STEPS = 12
EVERY = "--config.train.checkpoint_every=3"
# Files, because importing scikit-learn for its digits takes longer than these steps.
DATA = tempfile.TemporaryDirectory()
IMAGES = ("--config.data.name=idx", f"--config.data.folder={DATA.name}")


@pytest.fixture(scope="module", autouse=True)
def images():
    """Writes random images of 8x8 as IDX files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("t10k", 20)):
        pictures = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        files = {"images-idx3": pictures, "labels-idx1": np.arange(count) % 10}
        for name, array in files.items():
            path = pathlib.Path(DATA.name) / f"{split}-{name}-ubyte"
            path.write_bytes(data_files.encode_idx(array))


def pretrain(workdir, steps, *flags):
    run_tools.pretrain(workdir, steps, *IMAGES, *flags)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run on one device."""
    workdir = tmp_path_factory.mktemp("reference")
    pretrain(workdir, STEPS, EVERY)
    return workdir


@pytest.fixture(scope="module")
def reference_state(reference):
    return run_tools.saved_state(reference, STEPS)


def losses(workdir):
    return {row["step"]: row["loss"] for row in log.read_metrics(workdir)}


@pytest.mark.campaign
def test_killed_three_times_and_resumed_is_bitwise_the_same(tmp_path, reference_state):
    flags = run_tools.pretraining(tmp_path, STEPS, *IMAGES, EVERY)
    for first in (1, 4, 7):
        process = run_tools.start(*flags)
        target = random.randint(first, first + 2)  # killed once this step is logged
        deadline = time.monotonic() + 300
        while max(losses(tmp_path), default=0) < target and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.random() / 5)  # in the middle of a step or of a save
        process.kill()
        process.communicate()
    pretrain(tmp_path, STEPS, EVERY)
    run_tools.assert_same_state(run_tools.saved_state(tmp_path, STEPS), reference_state)
    assert list(losses(tmp_path)) == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [("SIGTERM", 0), pytest.param("SIGINT", 130, marks=pytest.mark.campaign)],
)
def test_a_signal_saves_and_says_so(tmp_path, reference_state, number, status):
    flags = run_tools.pretraining(tmp_path, STEPS * 1000, *IMAGES)
    process = run_tools.start(*flags)
    deadline = time.monotonic() + 300
    while not losses(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[number])
    _, errors = process.communicate(timeout=100)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    stopped = max(losses(tmp_path))
    assert f"stopped by signal at step {stopped}, saved" in errors
    if stopped <= STEPS:
        pretrain(tmp_path, STEPS)
        run_tools.assert_same_state(
            run_tools.saved_state(tmp_path, STEPS), reference_state
        )
    else:
        assert run_tools.saved_state(tmp_path, stopped)["['step']"] == stopped


def test_images_of_other_channels_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="image_channels: 3, but the images of idx"):
        pretrain(tmp_path, 1, "--config.network.image_channels=3")


@pytest.mark.slow
def test_a_nan_stops_the_run_names_the_step_and_keeps_the_last_good(
    tmp_path, reference
):
    workdir = shutil.copytree(reference, tmp_path / "run")
    explode = (
        "--config.train.learning_rate=1e6",
        "--config.train.warmup_steps=0",
        "--config.train.adam_epsilon=1e-30",
    )
    with pytest.raises(UserError) as error:
        pretrain(workdir, STEPS + 4, EVERY, *explode)
    message = str(error.value)
    assert f"update norm nan at step {STEPS + 2}: not finite" in message
    assert f"last good checkpoint: step {STEPS}" in message and "\n" not in message
    assert run_tools.saved_state(workdir, STEPS)["['step']"] == STEPS


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    """Size of the mesh's axis "fsdp" -> workdir of six steps on eight devices, and of
    samples."""

    @functools.cache
    def run(fsdp):
        workdir = tmp_path_factory.mktemp("eight")
        sharded = f"--config.mesh.fsdp={fsdp}"
        training = run_tools.pretraining(workdir, 6, *IMAGES, sharded)
        sample = ("--task=sample", "--config.sampler.steps=4", sharded)
        run_tools.run_each([training, (f"--workdir={workdir}", *sample)], devices=8)
        return workdir

    return run


@pytest.mark.parametrize(
    "fsdp",
    [
        pytest.param(1, marks=pytest.mark.campaign),
        pytest.param(2, marks=pytest.mark.slow),
        8,
    ],
)
def test_eight_devices_give_the_losses_of_one(on_eight_devices, reference, fsdp):
    workdir = on_eight_devices(fsdp)
    ours, theirs = losses(workdir), losses(reference)
    for step in range(1, 7):
        np.testing.assert_allclose(ours[step], theirs[step], rtol=1e-4)
    if fsdp == 8:  # the checkpoint of eight devices goes on, on one
        pretrain(workdir, 8, "--config.mesh.fsdp=1")
        for step in (7, 8):
            np.testing.assert_allclose(losses(workdir)[step], theirs[step], rtol=1e-3)


def test_parameters_that_stay_sharded_draw_the_same_images(on_eight_devices, tmp_path):
    workdir = shutil.copytree(on_eight_devices(8), tmp_path / "alone")
    with np.load(workdir / "samples.npz") as drawn:
        eight = drawn["arr_0"].astype(int)
    # Another test may have trained on from there.
    alone = ("--task=sample", "--config.mesh.fsdp=1", "--config.checkpoint.step=6")
    main.run(["main", f"--workdir={workdir}", *alone])
    with np.load(workdir / "samples.npz") as drawn:
        assert np.abs(drawn["arr_0"] - eight).max() <= 1
    assert eight.std() > 10


def test_the_host_reads_nothing_between_log_steps(tmp_path, monkeypatch):
    dispatched, dispatch = [0], Pretraining.dispatch

    def guarded(self, state, step, count):
        with jax.transfer_guard_device_to_host("disallow"):
            result = dispatch(self, state, step, count)
        dispatched.append(step + count)
        return result

    monkeypatch.setattr(Pretraining, "dispatch", guarded)
    with reads.noted(lambda: dispatched[-1]) as found:
        rarely = ("--config.train.log_every=4", "--config.train.checkpoint_every=8")
        pretrain(tmp_path, 8, *rarely)
    assert dispatched == list(range(9))
    # What begins the run comes before the first step.
    assert {step for step, _ in found} - {0} == {4, 8}
    for row in log.read_metrics(tmp_path):
        assert 0 < row["input_share"] < 1


@pytest.mark.slow
def test_steps_in_one_dispatch_change_nothing(tmp_path, reference):
    pretrain(
        tmp_path,
        6,
        "--config.train.steps_per_dispatch=3",
        "--config.train.log_every=6",
    )
    expected = np.mean([losses(reference)[step] for step in range(1, 7)])
    np.testing.assert_allclose(losses(tmp_path)[6], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_set_that_streams_gives_the_losses_of_a_resident_one(tmp_path, reference):
    pretrain(tmp_path, 4, "--config.data.resident_bytes=0")
    for step in range(1, 5):
        np.testing.assert_allclose(
            losses(tmp_path)[step], losses(reference)[step], rtol=1e-5
        )


@pytest.mark.campaign
def test_two_processes_train_save_and_restore(tmp_path, reference):
    def both(steps):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        processes = [
            run_tools.start(
                *run_tools.pretraining(tmp_path, steps, *IMAGES),
                f"--coordinator=localhost:{port}",
                "--process_count=2",
                f"--process_index={index}",
                devices=2,
            )
            for index in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors

    both(3)
    both(6)  # restores what both wrote
    for step in range(1, 7):
        np.testing.assert_allclose(
            losses(tmp_path)[step], losses(reference)[step], rtol=1e-4
        )
    pretrain(tmp_path, 7)  # and one process goes on alone
    np.testing.assert_allclose(losses(tmp_path)[7], losses(reference)[7], rtol=1e-3)
