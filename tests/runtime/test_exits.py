"""Ctrl-C and full disks at moments at which Python drops what is raised."""

import subprocess
import sys

import pytest

FINALISER = """
class Press:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass
Press()
"""
COLLECTOR = """
def press(phase, info):
    gc.callbacks.remove(press)
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(100): pass
gc.callbacks.append(press)
gc.collect()
"""
PLAIN = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize("press", [PLAIN, FINALISER, COLLECTOR])
def test_no_interrupt_is_lost(press):
    program = (
        "import gc, os, signal, time",
        "from ddae_jax.runtime import exits",
        "exits.prepare()",
        "try:",
        *(f"    {line}" for line in press.strip().splitlines()),
        "    time.sleep(60)",
        "except KeyboardInterrupt:",
        "    exits.leave('gone', 130)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == "gone\n"
    assert done.returncode == 130


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
