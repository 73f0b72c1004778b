"""Kills runs of the real command line at random moments, and compares what they leave.

A server that has imported everything forks each run: importing takes longer than the
tiny runs.
"""

import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import time

import numpy as np

from ddae_jax.runtime import log
from tests.tools import runs as run_tools

WAIT = 400  # seconds, on a machine that is busy
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.tools.preloaded"])


def _run(words: tuple[str, ...], path: str) -> None:
    """In the new process."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    from ddae_jax import main

    main.main(["main", *words])


class Started:
    """A run of the command line, its stderr in a file."""

    def __init__(self, words: tuple[str, ...], path: pathlib.Path):
        self.path = path
        path.write_bytes(b"")
        self.process = SPAWN.Process(target=_run, args=(words, str(path)))
        self.process.start()

    def text(self) -> str:
        return self.path.read_text(errors="replace")

    def wait_for(self, lines: int) -> bool:
        """Whether the run has written so many lines before it ended."""
        deadline = time.monotonic() + WAIT
        while self.text().count("\n") < lines:
            if not self.process.is_alive():
                return False
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.005)
        return True

    def end(self) -> int:
        """Waits for it; its exit status."""
        self.process.join(WAIT)
        assert self.process.exitcode is not None, self.text()
        return self.process.exitcode


def timeline(words: tuple[str, ...], path: pathlib.Path) -> list[float]:
    """Seconds from the start to each line of an undisturbed run, and to its end."""
    began, times = time.monotonic(), [0.0]
    run = Started(words, path)
    while run.process.is_alive():
        times += [time.monotonic() - began] * (run.text().count("\n") - len(times) + 1)
        time.sleep(0.005)
    assert run.end() == 0, run.text()
    return [*times, time.monotonic() - began]


def kill_at(
    words: tuple[str, ...], path: pathlib.Path, times: list[float], moment: float
) -> bool:
    """SIGKILL at `moment` of an undisturbed run's `timeline`.

    As seen in the lines of the log: so many of them, and then the seconds that are
    left. So it is the same place on a machine that is slower just now.

    Returns:
      whether it was still running.
    """
    lines = sum(time <= moment for time in times[1:-1])
    run = Started(words, path)
    if run.wait_for(lines):
        time.sleep(moment - times[lines])
    run.process.kill()
    status = run.end()
    assert status in (0, -9), run.text()
    return status == -9


def kill_often(
    count: int,
    words: tuple[str, ...],
    workdir: pathlib.Path,
    fresh: pathlib.Path | None,
    expected: dict,
    times: list[float],
    seed: int,
) -> dict:
    """Kills `words` in `workdir` `count` times; each run goes on from the one before.

    A run that comes to its end, and the last, must leave what `expected` says; then
    `workdir` begins anew as `fresh` is.

    Returns:
      how many were killed, how many ended, and the moments.
    """
    rng = random.Random(seed)
    path = workdir.with_name(f"{workdir.name}.log")
    killed, ended, moments = 0, 0, []
    begin(workdir, fresh)
    while killed < count:
        moment = rng.uniform(0, times[-1])
        if kill_at(words, path, times, moment):
            killed += 1
            moments.append(round(moment, 2))
        else:
            ended += 1
            assert_same(left(workdir), expected)
            begin(workdir, fresh)
        assert ended < 10 * count, path.read_text()
    assert timeline(words, path)
    assert_same(left(workdir), expected)
    return {"killed": killed, "ended": ended + 1, "seed": seed, "moments": moments}


def begin(workdir: pathlib.Path, fresh: pathlib.Path | None) -> None:
    """Makes `workdir` a copy of `fresh`, or nothing."""
    shutil.rmtree(workdir, ignore_errors=True)
    if fresh is not None:
        shutil.copytree(fresh, workdir)


# What differs between equal runs: times, and how often it was started.
_IGNORED = {"commands.txt", ".lock", "parameters.txt"}
_TIMES = {"seconds", "time", "seconds_per_step", "images_per_second", "input_share"}


def left(workdir: pathlib.Path) -> dict:
    """What a run leaves: metrics, states, results, and the names of all files."""
    found = {"files": _names(workdir)}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.name == log.FILE:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = _without_times(rows)
        elif path.name == "checkpoints":
            steps = [int(step.name) for step in path.iterdir()]
            found[name] = sorted(steps)
            found |= {
                f"{name}/{array}": value
                for array, value in run_tools.saved_state(
                    path.parent, max(steps)
                ).items()
            }
        elif path.suffix == ".json" and "checkpoints" not in path.parts:
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix == ".npz":
            with np.load(path) as archive:
                found |= {f"{name}/{key}": archive[key] for key in archive.files}
    return found


def _names(workdir):
    """Of files, without those of orbax and of TensorBoard, whose names are random."""
    names = set()
    for path in workdir.rglob("*"):
        parts = path.relative_to(workdir).parts
        if "checkpoints" in parts:  # the steps are compared
            parts = parts[: parts.index("checkpoints") + 2]
        if "events" in parts:
            parts = parts[: parts.index("events") + 1]
        names.add("/".join(parts))
    return names - _IGNORED


def _without_times(content):
    if isinstance(content, dict):
        return {
            k: _without_times(v)
            for k, v in content.items()
            if k not in _TIMES and not k.endswith(": seconds")
        }
    if isinstance(content, list):
        return [_without_times(inner) for inner in content]
    return content


def assert_same(found: dict, expected: dict) -> None:
    """Bitwise, and no file more or less."""
    assert found["files"] == expected["files"], sorted(
        found["files"] ^ expected["files"]
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == value, name
