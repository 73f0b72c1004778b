"""How a run that cannot go on ends: one line, and no process that waits for others."""

import sys
import traceback
from typing import NoReturn

import jax

from ddae_jax.errors import UserError
from ddae_jax.runtime import exits
from ddae_jax.runtime.copy_notes import as_given

_SECONDS = 10  # in which the other processes fail alike, or not


def fail(error: Exception) -> NoReturn:
    """Ends this process, which `error` stops.

    One line where the user can do something about it, and exit status 2; else a
    traceback and 1. Other processes that `error` stops end likewise. Those that wait
    for what this one does not give any more lose the connection to it, and say so.
    """
    if (line := exits.line_of(error)) is not None:
        exits.leave(line, 1)
    if isinstance(error, UserError):
        print(f"error: {as_given(str(error))}", file=sys.stderr, flush=True)
        _leave(2)
    if not jax.distributed.is_initialized():
        raise error
    traceback.print_exception(error)
    _leave(1)


def _leave(status: int) -> NoReturn:
    """At its end jax waits for the other processes, for minutes: here some seconds."""
    if jax.distributed.is_initialized():
        line = "error: the other processes of the run are still at work; left"
        with exits.limit(_SECONDS, line, status):
            jax.distributed.shutdown()
    raise SystemExit(status)
