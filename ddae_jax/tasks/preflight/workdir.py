"""Whether all processes see one workdir, and can write there."""

import contextlib
import dataclasses
import pathlib
import time
import uuid

import jax

from ddae_jax.runtime import processes

_SECONDS = 10  # that a network file system may take to show a new file


@dataclasses.dataclass(frozen=True)
class View:
    """What one process sees of the workdir.

    Attributes:
      sees: the file of process 0.
      writes: it has written one of its own.
      shows: process 0 sees that one.
    """

    sees: bool
    writes: bool
    shows: bool


def views(workdir: pathlib.Path, seconds: float = _SECONDS) -> list[View]:
    """The view of each process; leaves nothing behind."""
    token = processes.gather(uuid.uuid4().hex, "a name of a file")[0]
    index = jax.process_index()
    mine = workdir / f".preflight-{token}-{index}"
    try:
        writes = _write(mine, token)
        processes.gather(None, "the file is written")  # from here on all have written
        until = time.monotonic() + seconds
        sees = _appears(workdir / f".preflight-{token}-0", token, until)
        told = processes.gather([sees, writes], "the workdir")
        shown = [False] * len(told)
        if index == 0:
            for other, (_, wrote) in enumerate(told):
                path = workdir / f".preflight-{token}-{other}"
                shown[other] = wrote and _appears(path, token, until)
        shown = processes.gather(shown, "the workdir shown")[0]
    finally:
        with contextlib.suppress(OSError):
            mine.unlink(missing_ok=True)
    return [View(*one, shows) for one, shows in zip(told, shown, strict=True)]


def _write(path: pathlib.Path, token: str) -> bool:
    try:
        path.write_text(token)
    except OSError:
        return False
    return True


def _appears(path: pathlib.Path, token: str, until: float) -> bool:
    """Whether the file is there, at the latest at `until` of the monotonic clock."""
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
