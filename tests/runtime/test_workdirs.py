"""Workdirs on an object store: a real server on loopback, real processes, kill -9."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import copy_notes, log
from ddae_jax.settings import command_line
from tests.tools import object_store
from tests.tools import runs as run_tools

pytestmark = pytest.mark.slow
OFTEN = ("--config.train.checkpoint_every=2", "--config.train.keep_every=2")
STEPS = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store.serving(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """An uninterrupted run on the disk."""
    workdir = tmp_path_factory.mktemp("local") / "run"
    run_tools.pretrain(workdir, STEPS, *OFTEN)
    return workdir


@pytest.fixture(scope="module")
def stored(server, local):
    """The URL of the same on the store, that was killed twice in the middle of a save.

    There is a space in it.
    """
    url = "s3://bucket/my runs/killed"
    kill_while_saving(server, url, 2)
    assert committed(server, url) == []
    kill_while_saving(server, url, 4)
    assert committed(server, url) == [2]
    server.slow_down("")
    forget(url)
    run_tools.run(*run_tools.pretraining(url, STEPS, *OFTEN))
    return url


def kill_while_saving(server, url, step):
    """Runs until some objects of the checkpoint are there and some are not."""
    folder = f"checkpoints/{step}/"
    server.slow_down(folder)
    process = run_tools.start(*run_tools.pretraining(url, STEPS, *OFTEN))
    key = f"{url.removeprefix('s3://bucket/')}/{folder}"
    before = sum(line.startswith(key) for line in server.log())

    def some_are_there():
        return sum(line.startswith(key) for line in server.log()) > before

    object_store.wait_for(some_are_there, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def committed(server, url):
    names = server.files.find(f"{url}/checkpoints")
    return sorted(int(n.split("/")[-2]) for n in names if n.endswith("/committed.json"))


def forget(url):
    """What another machine would see: the store alone, and a lock that is free."""
    folder = copy_notes.folder_of(url)
    for path in folder.iterdir():
        if path.name != ".lock":  # by which the run knows that the one before is dead
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fetched(server, url, folder):
    server.files.get(f"{url}/", f"{folder}/", recursive=True)
    return pathlib.Path(folder)


def test_a_killed_run_goes_on_to_the_same_result(server, stored, local, tmp_path):
    assert committed(server, stored) == [2, 4, 6]
    here = fetched(server, stored, tmp_path / "here")
    for step in (2, 4, 6):
        run_tools.assert_same_state(
            run_tools.saved_state(here, step), run_tools.saved_state(local, step)
        )
    rows = [run_tools.without_times(log.read_metrics(each)) for each in (here, local)]
    assert rows[0] == rows[1]
    assert not (here / ".lock").exists()
    names = {p.name for p in here.iterdir()}
    assert {"config.json", "data.json", "events", "commands.txt"} <= names


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    server, stored, local, tmp_path
):
    url = "s3://bucket/damaged"
    server.files.cp(f"{stored}/", f"{url}/", recursive=True)
    sizes = server.files.find(f"{url}/checkpoints/6", detail=True)
    largest = max(sizes, key=lambda name: sizes[name]["size"])
    server.files.pipe_file(largest, server.files.cat_file(largest)[:-100])
    errors = run_tools.run(*run_tools.pretraining(url, STEPS, *OFTEN))
    assert f"checkpoint {url}/checkpoints/6 is damaged and not used" in errors
    assert "resuming from step 4" in errors
    here = fetched(server, url, tmp_path / "here")
    run_tools.assert_same_state(
        run_tools.saved_state(here, STEPS), run_tools.saved_state(local, STEPS)
    )


def test_tasks_on_a_store_and_on_a_disk_give_the_same(server, stored, local, tmp_path):
    tasks = (
        "--task=preflight,sample,probe,fid,report",
        "--config.sample.count=16",
        "--config.sample.png_folder=True",
        "--config.probe.times=1",
        "--config.probe.seeds=1",
        "--config.fid.count=32",
        "--config.fid.classifier_steps=2",
    )
    forget(stored)
    errors = run_tools.run(f"--workdir={stored}", *tasks)
    assert str(copy_notes.folder_of(stored)) not in errors
    main.run(["main", f"--workdir={local}", *tasks])
    here = fetched(server, stored, tmp_path / "here")
    names = [
        {p.relative_to(each).as_posix() for p in each.rglob("*") if p.is_file()}
        for each in (here, local)
    ]
    there = {name for name in names[1] if not name.startswith(("checkpoints", "."))}
    assert {n for n in there if not n.startswith("events")} <= names[0]
    samples = [np.load(each / "samples.npz")["arr_0"] for each in (here, local)]
    np.testing.assert_array_equal(*samples)
    for name, field in (("probe.json", "cells"), ("fid.json", "fid")):
        found = [json.loads((each / name).read_text())[field] for each in (here, local)]
        assert found[0] == found[1], name
    assert b"<html" in (here / "report.html").read_bytes()


@pytest.mark.campaign
def test_two_runs_do_not_work_in_one_workdir(server, tmp_path):
    url = "s3://bucket/two"
    flags = run_tools.pretraining(url, 100_000, "--config.train.checkpoint_every=50000")
    first = run_tools.start(*flags)
    try:
        object_store.wait_for(lambda: "two/metrics.jsonl" in server.log(), first)
        errors = run_tools.run(*flags, status=2)
        assert f"another run works in {url}" in errors.splitlines()[-1]
        here = os.environ["XDG_CACHE_HOME"]
        os.environ["XDG_CACHE_HOME"] = str(tmp_path / "another machine")
        try:
            errors = run_tools.run(*flags, status=2)
        finally:
            os.environ["XDG_CACHE_HOME"] = here
        assert f"another run works in {url}" in errors.splitlines()[-1]
        # One that loses its lock, as after a long sleep, ends and writes no more.
        server.files.pipe_file(f"{url}/.lock", b'{"owner": "another"}')
        _, errors = first.communicate(timeout=300)
        assert first.returncode == 2
        assert "another run has taken" in errors.splitlines()[-1]
    finally:
        first.kill()
        first.wait()


def test_a_run_that_is_stopped_has_saved_into_the_store(server):
    url = "s3://bucket/stopped"
    flags = run_tools.pretraining(url, 100_000, "--config.train.checkpoint_every=50000")
    process = run_tools.start(*flags)

    def has_rows():  # the first time it is empty
        return server.log().count("stopped/metrics.jsonl") > 1

    object_store.wait_for(has_rows, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (step,) = committed(server, url)
    assert f"stopped by signal at step {step}, saved" in errors
    assert not server.files.exists(f"{url}/.lock")


@pytest.mark.campaign
def test_processes_of_one_host_share_a_workdir(server, local, tmp_path):
    url = "s3://bucket/shared"
    flags = run_tools.pretraining(url, STEPS, *OFTEN)
    words = ["bash", "launch/local.sh", "2", *flags]
    environment = run_tools.environment() | {"PYTHON": sys.executable}
    done = subprocess.run(
        words, cwd=run_tools.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert committed(server, url) == [2, 4, 6]
    forget(url)
    errors = run_tools.run(*run_tools.pretraining(url, STEPS + 2, *OFTEN))
    assert f"resuming from step {STEPS}" in errors


def test_what_cannot_be_reached_is_one_line(server, monkeypatch):
    def told(url):
        words = ["main", *run_tools.pretraining(url, 2)]
        with pytest.raises(UserError) as caught:
            command_line.parse(words, main.define_flags)
        return str(caught.value)

    assert (
        told("s3://nobody/run") == "--workdir: s3://nobody/run: there is no such bucket"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem = type(server.files)
    S3FileSystem.clear_instance_cache()
    assert told("s3://bucket/run").startswith(
        "--workdir: s3://bucket/run: no credentials"
    )
    S3FileSystem.clear_instance_cache()


def test_hosts_that_share_no_disk_are_refused(server, tmp_path):
    flags = run_tools.pretraining("s3://bucket/hosts", 2)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"--coordinator=localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            run_tools.command(
                *flags, where, "--process_count=2", f"--process_index={index}"
            ),
            cwd=run_tools.ROOT,
            env=run_tools.environment()
            | {"XDG_CACHE_HOME": str(tmp_path / f"{index}")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 2
        assert "several hosts write one checkpoint to a file system" in errors
    assert not server.files.find("s3://bucket/hosts")


def test_google_cloud_storage(tmp_path, local, monkeypatch):
    """With an emulator, which knows no locks: it writes an object that is there."""
    pytest.importorskip("gcsfs", reason="needs the extra gs: make test-all")
    pytest.importorskip("gcp_storage_emulator", reason="installed by make test-all")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["start", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    emulator = subprocess.Popen(
        [sys.executable, "-m", "gcp_storage_emulator", *words],
        stderr=subprocess.DEVNULL,
    )
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        # Else gcsfs asks the emulator by gRPC for the kind of the bucket, for minutes.
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        for steps in (2, STEPS):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {steps}"))
            url = "gs://bucket/my runs/google"
            run_tools.run(*run_tools.pretraining(url, steps, *OFTEN))
        copy = copy_notes.folder_of(url)
        run_tools.assert_same_state(
            run_tools.saved_state(copy, STEPS), run_tools.saved_state(local, STEPS)
        )
    finally:
        emulator.kill()
        emulator.wait()


def test_images_on_a_store_are_copied_once(server, tmp_path):
    folder = "s3://bucket/my birds"
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
        server.files.put_file(str(path), f"{folder}/{i % 2}/{i}.png")
    flags = [f for f in run_tools.TINY if not f.startswith("--config=")]
    words = (
        "--config=configs/image_folder.py",
        *flags,
        "--task=pretrain",
        f"--config.data.folder={folder}",
        "--config.data.image_size=8",
        "--config.train.steps=1",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "copying 20 files" in run_tools.run(*words)
    assert "copying" not in run_tools.run(*words)
