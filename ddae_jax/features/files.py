"""Arrays of features on disk, written block by block so that nothing half done is used.

A folder holds one .npy file an array, float32 (count, features), under NAME.npy.part
until it is whole, and progress.json: for each array the blocks that are on disk, each
as [row behind its last, CRC-32 of its bytes]. What does not agree with it is redone.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging
from jaxtyping import Float

from ddae_jax.runtime.files import replacing

_PROGRESS = "progress.json"
_CHUNK = 1 << 24  # bytes that are checked at a time

Blocks = list[list[int]]
"""[row behind the last, CRC-32] of each block, in order."""


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Makes `folder`, and waits until no other process works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(folder: pathlib.Path, name: str) -> Float[np.ndarray, "count features"]:
    """Returns a whole array, memory-mapped."""
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def intact(folder: pathlib.Path, name: str, count: int) -> list[int]:
    """Returns after which rows an array can be continued, from 0 up; all of its bytes
    are read and checked.

    An array that is whole ends with `count`, and `read` gives it. A file that claims to
    be whole and is not loses its name.
    """
    part, done = folder / f"{name}.npy.part", folder / f"{name}.npy"
    blocks = _read_progress(folder).get(name, [])
    if done.exists():
        found = _intact_rows(done, blocks, count)
        if found[-1] == count:
            return found
        logging.warning("%s: damaged behind row %d, will be redone", done, found[-1])
        done.replace(part)
        return found
    if not part.exists():
        return [0]
    found = _intact_rows(part, blocks, count)
    if found[-1] == count:
        part.replace(done)
    return found


def _read_progress(folder: pathlib.Path) -> dict[str, Blocks]:
    try:
        return json.loads((folder / _PROGRESS).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _write_progress(folder: pathlib.Path, progress: Mapping[str, Blocks]) -> None:
    with replacing(folder / _PROGRESS) as part:
        part.write_text(json.dumps(progress))


def _header(path: pathlib.Path) -> tuple[tuple[int, ...], int] | None:
    """(shape, bytes before the data) of a float32 file; None where it is none."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                return None
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if fortran or dtype != np.float32 or len(shape) != 2:
                return None
            return shape, file.tell()
    except (OSError, ValueError):
        return None


def _intact_rows(path: pathlib.Path, blocks: Blocks, count: int) -> list[int]:
    header = _header(path)
    intact = [0]
    if header is None or header[0][0] != count:
        return intact
    (_, width), offset = header
    with open(path, "rb") as file:
        file.seek(offset)
        for stop, expected in blocks:
            left, found = (stop - intact[-1]) * width * 4, 0
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    return intact
                found, left = zlib.crc32(chunk, found), left - len(chunk)
            if found != expected:
                return intact
            intact.append(stop)
    return intact


class Writer:
    """Writes arrays of one folder side by side, from one row on.

    `append` writes rows; `commit` makes them count; `finish` gives the files their
    names. What was appended since the last commit is lost with the process.
    """

    def __init__(self, folder: pathlib.Path, count: int, start: int):
        """Args:
        folder: is locked by the caller.
        count: rows of every array.
        start: is in `intact` of every array.
        """
        self._folder, self._count, self._start = folder, count, start
        self._row = self._committed = start
        self._files, self._sums = {}, {}

    @property
    def uncommitted(self) -> int:
        """Rows that would be lost."""
        return self._row - self._committed

    def append(self, arrays: Mapping[str, Float[np.ndarray, "rows features"]]) -> None:
        """Writes the next rows of every array, always of the same ones."""
        for name, rows in arrays.items():
            if name not in self._files:
                self._files[name] = self._open(name, rows.shape[1])
                self._sums[name] = 0
            content = np.ascontiguousarray(rows, np.float32).tobytes()
            self._files[name].write(content)
            self._sums[name] = zlib.crc32(content, self._sums[name])
        self._row += len(next(iter(arrays.values())))

    def commit(self) -> None:
        """What was appended is safe on disk when this returns."""
        if not self.uncommitted:
            return
        progress = _read_progress(self._folder)
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            progress[name].append([self._row, self._sums[name]])
            self._sums[name] = 0
        _write_progress(self._folder, progress)
        self._committed = self._row

    def finish(self) -> None:
        """Commits, and makes the arrays whole."""
        self.commit()
        self.close()
        for name in self._files:
            path = self._folder / f"{name}.npy"
            path.with_name(f"{name}.npy.part").replace(path)

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._files.values():
            file.close()

    def _open(self, name: str, width: int):
        """The part file, behind row `start`; what it had behind that is gone."""
        path = self._folder / f"{name}.npy.part"
        progress = _read_progress(self._folder)
        blocks = progress.get(name, [])
        progress[name] = [block for block in blocks if block[0] <= self._start]
        _write_progress(self._folder, progress)
        mode = "r+b" if self._start else "wb"
        file = open(path, mode)  # noqa: SIM115 (`close` closes it)
        if self._start:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(self._start * width * 4, os.SEEK_CUR)
            file.truncate()
        else:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
                "fortran_order": False,
                "shape": (self._count, width),
            }
            np.lib.format.write_array_header_1_0(file, header)
        return file
