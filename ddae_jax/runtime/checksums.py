"""Checksums of the files in a folder: whether all are there as they were written.

Neither orbax nor TensorStore notices a bit that flips in the data of an array.
"""

import concurrent.futures
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable

from ddae_jax.runtime.files import read_json, read_regular, replacing

FILE = "checksums.json"
_CHUNK = 1 << 22
# Orbax adds the time of the commit, and a file that says so, when all else is written.
_STEP_METADATA, _COMMIT_TIME = "_CHECKPOINT_METADATA", "commit_timestamp_nsecs"
_COMMITTED = "commit_success.txt"
_IN_EACH = (_STEP_METADATA, _COMMITTED, "metrics/metrics", "default/_METADATA")


def write(folder: str | pathlib.Path) -> None:
    """Writes the size and the CRC-32 of each file below `folder` into it."""
    folder = pathlib.Path(folder)
    names = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (FILE, _COMMITTED)
    ]
    sums = dict(zip(names, _each(_sum, folder, names), strict=True))
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps(sums, indent=0) + "\n")


def find_damage(
    folder: str | pathlib.Path, index: int = 0, count: int = 1
) -> str | None:
    """Names a file below `folder` that is not as it was written; None without one.

    None, too, for a folder without checksums, as version 0.1 wrote them.

    Args:
      index: of this one among `count` processes: each reads its share of the files.
    """
    folder = pathlib.Path(folder)
    try:
        sums = json.loads(read_regular(folder / FILE))
        wanted = {str(name): tuple(pair) for name, pair in sums.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{FILE}: {error}"
    names = sorted(wanted, key=lambda name: (wanted[name], name))[index::count]
    for name, found in zip(names, _each(_sum_or_reason, folder, names), strict=True):
        if found != wanted[name]:
            return f"{name}: {_difference(wanted[name], found)}"
    return None


def lacks_files(folder: str | pathlib.Path) -> bool:
    """Whether a file is missing below `folder`, of a checkpoint; nothing is read."""
    folder = pathlib.Path(folder)
    sums = read_json(folder / FILE) or {}
    return not all((folder / name).is_file() for name in (*sums, *_IN_EACH))


def _difference(wanted, found) -> str:
    if isinstance(found, str):
        return found
    if wanted[0] != found[0]:
        return f"{found[0]} bytes instead of {wanted[0]}"
    return "its content has changed"


def _each(
    function: Callable, folder: pathlib.Path, names: Iterable[str]
) -> Iterable[tuple[int, int] | str]:
    """Reading and adding up run in parallel: both let other threads go on."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda name: function(folder / name), names))


def _sum_or_reason(path: pathlib.Path) -> tuple[int, int] | str:
    try:
        return _sum(path)
    except FileNotFoundError:
        return "it is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"it cannot be read: {error}"


def _sum(path: pathlib.Path) -> tuple[int, int]:
    """(size in bytes, CRC-32)."""
    if path.name == _STEP_METADATA:
        content = json.loads(read_regular(path))
        content.pop(_COMMIT_TIME, None)
        text = json.dumps(content, sort_keys=True).encode()
        return len(text), zlib.crc32(text)
    size = total = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            total = zlib.crc32(chunk, total)
    return size, total
