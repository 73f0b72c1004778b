"""What the processes of a run tell each other: facts, and what process 0 came to."""

import contextlib
import errno
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.runtime import files


class FirstFailed(UserError):
    """Process 0 has failed, for no fault of the user's: the others cannot go on."""


def gather(fact: Any, subject: str) -> list[Any]:
    """What each process gives, in their order. All must call it.

    Args:
      fact: JSON-able.
      subject: what the fact tells; names the place in the program.

    Raises:
      UserError: another process is at another place: it was started for something else.
    """
    if jax.process_count() == 1:
        return [json.loads(json.dumps(fact))]
    from jax.experimental import multihost_utils

    content = np.frombuffer(json.dumps([subject, fact]).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(content), np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)
    told = [
        json.loads(bytes(np.asarray(row[:length])))
        for row, length in zip(rows, lengths, strict=True)
    ]
    for index, (theirs, _) in enumerate(told):
        if theirs != told[0][0]:
            raise UserError(
                f"process {index} is at {theirs!r}, process 0 at {told[0][0]!r}: start "
                "all with the same words"
            )
    return [fact for _, fact in told]


def on_first(function: Callable[[], Any]) -> Any:
    """Calls `function` on process 0 alone, and gives its result to every process.

    All must call it; none goes on before process 0 is done. Whatever writes a file, or
    decides by one that process 0 writes, goes through here: the others neither see it
    half way, nor wait for a process that has failed.

    Args:
      function: gives something JSON-able.

    Raises:
      UserError: that of process 0.
      FirstFailed: on the other processes, where it is something else.
      OSError: no space is left on the disk of process 0.
      Exception: on process 0, whatever it raised.
    """
    value, failure, raised = None, None, None
    if jax.process_index() == 0:
        try:
            value = json.loads(json.dumps(function()))
        except Exception as error:
            raised, failure = error, _told(error)
    value, failure = gather([value, failure], "a result of process 0")[0]
    if raised is not None:
        raise raised
    if failure is not None:
        raise _failed(*failure)
    return value


@contextlib.contextmanager
def held_by_first(context: AbstractContextManager) -> Iterator[None]:
    """Process 0 is within `context`, such as a lock; see `on_first`."""
    with contextlib.ExitStack() as held:
        on_first(lambda: bool(held.enter_context(context)))
        yield


def _told(error: Exception) -> tuple[str, str]:
    """Kind and text of an error, for the other processes."""
    if isinstance(error, UserError):
        return "user", str(error)
    if files.disk_is_full(error):
        return "disk", ""
    return "other", f"process 0 has failed: {type(error).__name__}: {error}"[:500]


def _failed(kind: str, text: str) -> Exception:
    if kind == "disk":
        return OSError(errno.ENOSPC, files.NO_SPACE)
    return UserError(text) if kind == "user" else FirstFailed(text)
