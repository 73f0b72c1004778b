"""Files that appear whole or not at all, and folders with one run at a time."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import stat
import tokenize
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped

from ddae_jax.errors import UserError

# What numpy raises at .npy files that it cannot read.
_DAMAGED_ARRAY = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
NO_SPACE = os.strerror(errno.ENOSPC)
DISK_IS_FULL = (
    "no space left on the disk; what was saved before stays, and the same command goes "
    "on when there is space"
)


def cache_folder() -> pathlib.Path:
    """What we keep for the user's other runs: ~/.cache/ddae_jax, or in
    XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (pathlib.Path(base).expanduser() / "ddae_jax").absolute()


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
        return read_object(path)
    except (OSError, UserError):
        return None


def read_object(path: pathlib.Path) -> dict:
    """The object in a JSON file.

    Raises:
      FileNotFoundError: there is none.
      UserError: it cannot be read, or holds no object.
    """
    try:
        content = json.loads(read_regular(path))
    except (FileNotFoundError, UserError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def write_json(path: pathlib.Path, content: Mapping | Sequence) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def check_regular(path: str | os.PathLike) -> None:
    """Raises a UserError where `path` is there and no regular file.

    A named pipe would be waited for, a device such as /dev/zero has no end.

    Raises:
      OSError: it is not there, or cannot be asked.
    """
    _check_mode(path, os.stat(path).st_mode)


def map_array(path: str | os.PathLike) -> Shaped[np.ndarray, "..."]:
    """Maps the array of a .npy file; nothing in it is run, and nothing read yet.

    Raises:
      FileNotFoundError: there is none.
      UserError: it holds no array.
    """
    try:
        check_regular(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except _DAMAGED_ARRAY as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not an .npy array: {reason}") from error
    if not isinstance(array, np.ndarray):  # an archive under this name
        raise UserError(f"{path}: not an .npy array, but an archive")
    return array


@contextlib.contextmanager
def open_regular(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a regular file of the user's to read its bytes; never waits for a writer.

    Raises:
      UserError: it is something else, such as a named pipe or a device.
      OSError: it is not there, or cannot be opened.
    """
    check_regular(path)  # first: opening a device may already do something
    # The name may belong to something else by now.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _check_mode(path, os.fstat(file.fileno()).st_mode)
        yield file


def read_regular(path: str | os.PathLike) -> bytes:
    """The content of a regular file; errors as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _check_mode(path, mode):
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    raise UserError(f"{os.fspath(path)}: not a regular file but {kind}")


@contextlib.contextmanager
def only_run_in(workdir: str | pathlib.Path) -> Iterator[None]:
    """Holds the lock of `workdir`, which it makes; for process 0 alone.

    The system releases the lock when the process ends, however it ends. Unfinished
    files that a killed run has left are removed.

    Raises:
      UserError: another run has the lock, or the folder cannot be made or written.
    """
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a")
    except OSError as error:
        if disk_is_full(error):
            raise
        raise UserError(f"--workdir: {workdir}: {error.strerror}") from error
    with lock as file:
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
