"""A run that cannot go on says so in one line: after Ctrl-C, on a full disk, or where
what it waits for does not come."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

PEER_IS_LOST = (
    "another process of the run has ended, or cannot be reached: look at what it said "
    "last; what was saved stays, and the same command goes on"
)
# In what jax and orbax say then, of gloo and of the coordination service.
_LOST = (
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "connection refused",
    "unavailable",
    "heartbeat",
    "unhealthy",
    "waiting for async_",  # orbax's barriers
    "timed out with key",  # gloo, of a process that does not come to a collective
)


def prepare() -> None:
    """From now on Ctrl-C, SIGTERM and SIGUSR1 raise a KeyboardInterrupt in the main
    thread, and what libraries leave undone in the background is told where it is news.

    With several processes, jax itself takes SIGTERM as soon as they have joined.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _unraisable
    threading.excepthook = _in_thread


def last_words(line: str) -> None:
    """Has `line` said on stderr where this process dies without a word of its own.

    Jax aborts a process whose coordinator is gone, from C++; the system kills one that
    takes too much memory. So another process must say it: one that waits for the end.
    """
    said = 'read -r _ || printf "%s\\n" "$1" >&2'
    teller = subprocess.Popen(
        ["sh", "-c", said, "sh", line],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # not killed with this one
    )
    _TELLERS.append(teller)
    atexit.register(_dismiss)


_TELLERS: list[subprocess.Popen] = []  # of this process


def _dismiss() -> None:
    while _TELLERS:
        with contextlib.suppress(OSError):
            _TELLERS.pop().communicate(b"\n")


def leave(line: str, status: int) -> NoReturn:
    """Ends the process with this line.

    At once: threads of XLA that still compile crash Python while it shuts down, and
    writers that cannot write tell it again.
    """
    _dismiss()
    print(line, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def interrupted(stop: KeyboardInterrupt) -> NoReturn:
    """Ends the process which a signal has stopped, with the status that tells which."""
    number = _number(stop)
    if number == signal.SIGINT:
        leave("interrupted; the same command goes on", 130)
    leave(f"stopped by signal {number.name}; the same command goes on", 143)


@contextlib.contextmanager
def limit(seconds: float, line: str, status: int = 2) -> Iterator[None]:
    """Leaves the process with this line where the block takes longer.

    Whatever it waits for, collectives of jax included, as long as that lets other
    threads of Python run.
    """
    watch = threading.Timer(seconds, leave, (line, status))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def line_of(error: BaseException | None) -> str | None:
    """What a run that fails with `error`, through no fault of its own, says at its end;
    None where it is something else."""
    from ddae_jax.runtime import files  # which takes long: it imports jax

    if files.disk_is_full(error):
        return f"error: {files.DISK_IS_FULL}"
    import jax

    while error is not None and jax.process_count() > 1:
        text = str(error).lower()
        of_jax = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
        if of_jax and any(words in text for words in _LOST):
            return f"error: {PEER_IS_LOST}"
        error = error.__cause__ or error.__context__
    return None


def _interrupt(number, _):
    """Python's own handler by another name: that one asyncio replaces while orbax
    restores, and then an interrupt can get lost."""
    raise KeyboardInterrupt(number)


def _number(stop: BaseException | None) -> signal.Signals:
    """Which signal has raised it."""
    known = [number for number in getattr(stop, "args", ()) if isinstance(number, int)]
    return signal.Signals(known[0]) if known else signal.SIGINT


def _unraisable(found) -> None:
    """What Python drops in finalisers and in callbacks, of which jax has one for every
    garbage collection: an interrupt comes again, a moment later."""
    if found.exc_type is KeyboardInterrupt:
        number = _number(found.exc_value)
        signal.signal(signal.SIGALRM, lambda *_: _interrupt(number, None))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    elif _is_news(found.exc_value):
        sys.__unraisablehook__(found)


def _in_thread(found) -> None:
    if _is_news(found.exc_value):
        threading.__excepthook__(found)


def _is_news(error: BaseException | None) -> bool:
    from ddae_jax.runtime import files  # which takes long: it imports jax

    # A full disk stops the main thread too. The other is what writes of orbax say
    # after one that failed.
    return not files.disk_is_full(error) and "Event loop is closed" not in str(error)
