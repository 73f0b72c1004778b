"""Files that appear whole or not at all, and folders with one run at a time."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping

import jax

from ddae_jax.errors import UserError

NO_SPACE = os.strerror(errno.ENOSPC)
DISK_IS_FULL = (
    "no space left on the disk; what was saved before stays, and the same command goes "
    "on when there is space"
)


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which becomes `path` where the block succeeds.

    Whoever reads `path` meanwhile, or after a crash, finds what was there before. Two
    commands that write at once do not meet: each has a path of its own.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: pathlib.Path) -> dict | None:
    """The object in a JSON file; None where there is no such file, or no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def only_run_in(workdir: str | pathlib.Path) -> Iterator[None]:
    """Holds the lock of `workdir`, which it makes; process 0 alone holds it.

    The system lets go of the lock when the process ends, however it ends. Unfinished
    files that a killed run has left are removed.

    Raises:
      UserError: another run has the lock.
    """
    workdir = pathlib.Path(workdir)
    if jax.process_index() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--workdir: another run works in {workdir}; wait for it, or name "
                "another folder"
            ) from error
        for unfinished in workdir.glob("*.????????.part"):
            unfinished.unlink()
        yield


def disk_is_full(error: BaseException | None) -> bool:
    """Whether it is why `error` was raised; libraries wrap the system's error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        if NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
