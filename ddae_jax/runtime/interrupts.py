"""Ctrl-C ends in one line and status 130, whatever the program is at."""

import os
import signal
import sys
from typing import NoReturn


def take() -> None:
    """Ctrl-C raises a KeyboardInterrupt in the main thread from now on."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _unraisable


def leave() -> NoReturn:
    """Says that the program was interrupted, and ends it.

    At once: threads of XLA that still compile crash Python while it shuts down.
    """
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _interrupt(*_):
    """Python's own handler by another name: that one asyncio replaces while orbax
    restores, and then an interrupt can get lost."""
    raise KeyboardInterrupt


def _unraisable(found) -> None:
    """What Python drops in finalisers and in callbacks, of which jax has one for every
    garbage collection: an interrupt comes again, a moment later."""
    if found.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    elif "Event loop is closed" not in str(found.exc_value):
        # That is what writes of orbax say after one that failed.
        sys.__unraisablehook__(found)
