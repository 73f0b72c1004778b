"""Signals and full disks at moments at which Python drops what is raised."""

import subprocess
import sys

import pytest

FINALISER = """
class Press:
    def __del__(self):
        os.kill(os.getpid(), signal.NUMBER)
        for _ in range(100): pass
Press()
"""
COLLECTOR = """
def press(phase, info):
    gc.callbacks.remove(press)
    os.kill(os.getpid(), signal.NUMBER)
    for _ in range(100): pass
gc.callbacks.append(press)
gc.collect()
"""
PLAIN = "os.kill(os.getpid(), signal.NUMBER)"
ENDS = {
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "stopped by signal SIGTERM"),
    "SIGUSR1": (143, "stopped by signal SIGUSR1"),
}


@pytest.mark.parametrize(
    ("press", "number"),
    [
        (PLAIN, "SIGINT"),
        (PLAIN, "SIGTERM"),
        (FINALISER, "SIGINT"),
        (FINALISER, "SIGTERM"),
        (COLLECTOR, "SIGINT"),
        (COLLECTOR, "SIGUSR1"),
    ],
)
def test_no_signal_is_lost(press, number):
    program = (
        "import gc, os, signal, time",
        "from ddae_jax.runtime import exits",
        "exits.prepare()",
        "try:",
        *(
            f"    {line}"
            for line in press.replace("NUMBER", number).strip().splitlines()
        ),
        "    time.sleep(60)",
        "except KeyboardInterrupt as stop:",
        "    exits.interrupted(stop)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    status, line = ENDS[number]
    assert done.stderr == f"{line}; the same command goes on\n"
    assert done.returncode == status


def test_other_errors_that_python_drops_are_told_but_for_a_full_disk():
    program = (
        "import errno, os, threading",
        "from ddae_jax.runtime import exits",
        "exits.prepare()",
        "def raise_(error): raise error",
        "class Broken:",
        "    def __init__(self, error): self.error = error",
        "    def __del__(self): raise self.error",
        "full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        "Broken(full)",
        "Broken(ValueError('in a finaliser'))",
        "for error in (full, ValueError('in a thread')):",
        "    threading.Thread(target=raise_, args=[error]).start()",
    )
    words = [sys.executable, "-c", "\n".join(program)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert done.stderr.count("Traceback") == 2
    assert "ValueError: in a finaliser" in done.stderr
    assert "ValueError: in a thread" in done.stderr
