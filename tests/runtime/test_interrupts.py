"""Ctrl-C at moments at which Python drops what is raised."""

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
        "from ddae_jax.runtime import interrupts",
        "interrupts.take()",
        "try:",
        *(f"    {line}" for line in press.strip().splitlines()),
        "    time.sleep(60)",
        "except KeyboardInterrupt:",
        "    interrupts.leave()",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == "interrupted; the same command goes on\n"
    assert done.returncode == 130


def test_other_errors_that_python_drops_are_still_told():
    program = (
        "from ddae_jax.runtime import interrupts\n"
        "interrupts.take()\n"
        "class Broken:\n"
        "    def __del__(self): raise ValueError('told')\n"
        "Broken()"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert "ValueError: told" in done.stderr
