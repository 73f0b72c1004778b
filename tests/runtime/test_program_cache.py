"""Programs of one command serve the next; where they cannot be kept, it runs."""

import os
import pathlib
import subprocess
import sys

import pytest

from ddae_jax.runtime import program_cache
from tests.conftest import ROOT
from tests.tools import runs as run_tools

_LINES = """
import jax
from ddae_jax.runtime import log, program_cache
log.to_stderr()
program_cache.prepare()
print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)
"""


def environment(folder, **others):
    known = {k: v for k, v in os.environ.items() if "_CACHE_" not in k}
    return known | {"XDG_CACHE_HOME": str(folder)} | others


def prepared(folder, **others):
    """(folder, size) of the cache of a process, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", _LINES],
        cwd=ROOT,
        env=environment(folder, **others),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def steps(folder: pathlib.Path) -> dict[str, int]:
    """Name of a training step's program -> when it was written.

    Whether others are kept depends on how long they took.
    """
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("jit__run-*-cache")}


def state_of_run(folder, workdir, *words):
    flags = run_tools.pretraining(workdir, 2, *words)
    done = subprocess.run(
        run_tools.command(*flags),
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return run_tools.saved_state(workdir, 2)


@pytest.mark.slow
def test_the_second_run_compiles_nothing_and_is_bitwise_the_first(tmp_path):
    first = state_of_run(tmp_path, tmp_path / "first")
    kept = steps(tmp_path)
    assert len(kept) == 1
    [folder] = (tmp_path / "ddae_jax" / "programs").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    second = state_of_run(tmp_path, tmp_path / "second")
    assert steps(tmp_path) == kept
    run_tools.assert_same_state(first, second)


@pytest.mark.campaign
def test_two_processes_share_programs_and_give_the_same(tmp_path):
    def run(workdir):
        done = subprocess.run(
            ["bash", "launch/local.sh", "2", *run_tools.pretraining(workdir, 2)],
            cwd=ROOT,
            env=environment(tmp_path, PYTHON=sys.executable),
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        return run_tools.saved_state(workdir, 2)

    first = run(tmp_path / "first")
    kept = steps(tmp_path)
    assert kept
    run_tools.assert_same_state(first, run(tmp_path / "second"))
    assert steps(tmp_path) == kept


@pytest.mark.slow
def test_what_the_user_has_set_stays(tmp_path):
    (folder, size), _ = prepared(tmp_path)
    assert folder.startswith(str(tmp_path / "ddae_jax")) and int(size) == 1 << 30
    (folder, size), _ = prepared(tmp_path, JAX_COMPILATION_CACHE_DIR="/elsewhere")
    assert (folder, size) == ("/elsewhere", "-1")
    (folder, _), _ = prepared(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert folder == "None"
    (_, size), _ = prepared(tmp_path, JAX_COMPILATION_CACHE_MAX_SIZE="1000")
    assert size == "1000"


@pytest.mark.slow
def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path):
    file = tmp_path / "file"
    file.touch()
    (folder, _), told = prepared(file)
    assert folder == "None" and told.count("programs are compiled anew") == 1
    (folder, _), _ = prepared(tmp_path)
    pathlib.Path(folder).chmod(0o777)  # others could put programs there
    (folder, _), told = prepared(tmp_path)
    assert folder == "None" and "others can write" in told


def test_what_a_killed_run_left_is_removed(tmp_path):
    for name in ("whole-cache", "whole-atime", "cut-cache", "new-cache"):
        (tmp_path / name).write_bytes(b"12345678")
    for name in ("whole-cache", "cut-cache"):
        os.utime(tmp_path / name, (1, 1))
    program_cache._remove_half_written(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["new-cache", "whole-atime", "whole-cache"]


def test_processors_of_other_instructions_have_other_folders(tmp_path, monkeypatch):
    def named(text):
        (tmp_path / "cpuinfo").write_text(text)
        return program_cache._machine()

    monkeypatch.setattr(program_cache, "_CPUINFO", tmp_path / "cpuinfo")
    one = named("model name : A\nflags : fpu avx2\ncpu MHz : 2000\n")
    assert one == named("model name : A\nflags : fpu avx2\ncpu MHz : 3000\n")
    assert one != named("model name : A\nflags : fpu avx2 avx512f\n")
