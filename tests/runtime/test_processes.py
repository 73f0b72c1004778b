"""Two real processes: what they tell each other, and how they end where one fails."""

import os
import socket
import subprocess
import sys

import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import processes
from tests.tools import runs as run_tools

_BEGIN = """
import errno, sys
import jax
from ddae_jax.errors import UserError
from ddae_jax.runtime import ending, exits, joining, processes
exits.prepare()
index = int(sys.argv[2])
joining.join(sys.argv[1], 2, index, seconds=100)

def raising(error):
    def function():
        raise error
    return function
"""


def run_two(script: str, timeout: int = 200) -> list[tuple[int, str]]:
    """(exit status, stdout and stderr) of each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _BEGIN + script, address, str(index)],
            cwd=run_tools.ROOT,
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    told = [process.communicate(timeout=timeout)[0] for process in started]
    return [(p.returncode, text) for p, text in zip(started, told, strict=True)]


def test_alone_a_process_gets_what_it_gives():
    assert processes.gather({"a": (1, 2)}, "a fact") == [{"a": [1, 2]}]
    assert processes.on_first(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        processes.on_first(lambda: 1 / 0)

    def refuse():
        raise UserError("config.x: no")

    with pytest.raises(UserError, match=r"config\.x: no"):
        processes.on_first(refuse)


@pytest.mark.slow
def test_all_get_the_result_and_the_error_of_process_0():
    script = """
assert processes.gather({"of": index}, "a fact") == [{"of": 0}, {"of": 1}]
assert processes.on_first(lambda: {"of": index}) == {"of": 0}
for error in (
    UserError("config.x: no"),
    OSError(errno.ENOSPC, "No space left on device"),
    TypeError("a mistake"),
):
    try:
        processes.on_first(raising(error))
    except Exception as found:
        print(f"{type(found).__name__}: {found}")
try:
    processes.on_first(lambda: {1, 2})  # no JSON
except Exception as found:
    print(type(found).__name__)
"""
    (first, told), (second, heard) = run_two(script)
    assert (first, second) == (0, 0), told + heard
    assert "UserError: config.x: no" in told and "UserError: config.x: no" in heard
    assert "OSError: [Errno 28]" in told and "OSError: [Errno 28]" in heard
    assert "TypeError: a mistake" in told
    assert "FirstFailed: process 0 has failed: TypeError: a mistake" in heard
    assert told.count("TypeError") == 2 and heard.count("FirstFailed") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "failing",
    # 1: gloo waits for 30 seconds.
    [0, pytest.param(1, marks=pytest.mark.campaign)],
)
def test_a_process_that_fails_alone_does_not_leave_the_other_waiting(failing):
    """The other one is at a collective, to which the first does not come."""
    script = f"""
try:
    if index == {failing}:
        raise UserError("images/7.png: damaged")
    processes.gather(None, "a fact")
except Exception as error:
    ending.fail(error)
"""
    found = run_two(script)
    status, told = found[failing]
    assert status == 2 and "error: images/7.png: damaged" in told
    assert "still at work; left" in told
    status, told = found[1 - failing]
    assert status != 0, told
    if failing:  # process 0 holds the service that jax loses with it
        assert "error: another process of the run has ended" in told
        assert "Traceback" not in told and status == 1


@pytest.mark.slow
def test_processes_that_fail_alike_end_at_once_with_one_line_each():
    script = """
try:
    raise UserError("config.x: no")
except Exception as error:
    ending.fail(error)
"""
    for status, told in run_two(script):
        assert status == 2
        lines = [line for line in told.splitlines() if "Gloo" not in line]
        assert lines == ["error: config.x: no"]
