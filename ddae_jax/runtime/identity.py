"""The identity of a result: one hash of all that it follows from.

By content, never by times or paths: a copied workdir keeps its caches, and a file that
was changed in place does not.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ddae_jax.runtime import parallel

# Of larger sets of files, the content of some of them is read.
WHOLE_BYTES = 1 << 28
SAMPLED = 256


def of(**facts: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of named facts; their order does not matter.

    Args:
      facts: None, numbers, texts, arrays, dtypes, functions and classes (by name),
        dataclasses such as networks and settings (their class and the fields that they
        show), and lists, tuples and dicts of such.

    Raises:
      TypeError: a fact is of another kind, or a function without a name.
    """
    text = json.dumps(_describe(facts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def of_tree(tree: Any) -> str:
    """Returns the hash of a tree of arrays: paths, dtypes, shapes and all values.

    One array at a time is brought to the host, so that a sharded tree need not fit
    there twice. All processes of a run take part.

    Args:
      tree: such as parameters; jax arrays, however they are sharded, or numpy's.

    Raises:
      TypeError: an array of objects.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(parallel.on_host(leaf))
        if array.dtype.hasobject:
            raise TypeError(f"an array of objects has no identity: {array.dtype}")
        about = [jax.tree_util.keystr(path), str(array.dtype), np.shape(leaf)]
        digest.update(json.dumps(about).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def of_files(
    root: str | pathlib.Path, paths: Sequence[pathlib.Path] | None = None
) -> str:
    """Returns the hash of a file, or of files in a folder, wherever they lie.

    Names below `root`, sizes and contents count. Of files that hold more than
    WHOLE_BYTES together, the content of SAMPLED of them counts, evenly spread: another
    one that is changed without changing its size is not noticed.

    Args:
      root: a file, whose name does not count, or a folder.
      paths: the files in it that count, in any order; None: all of them.
    """
    root = pathlib.Path(root)
    if root.is_file():
        paths = [root]
    elif paths is None:
        paths = [path for path in root.rglob("*") if path.is_file()]
    paths = sorted(paths)
    sizes = [path.stat().st_size for path in paths]
    read = paths
    if sum(sizes) > WHOLE_BYTES:
        read = [paths[i] for i in spread(len(paths), SAMPLED)]
    return of(
        names=[path.relative_to(root).as_posix() for path in paths],
        sizes=sizes,
        contents=[of_file(path) for path in read],
    )


def spread(count: int, chosen: int) -> np.ndarray:
    """Returns at most `chosen` different indices below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(chosen, count)).astype(np.int64))


def of_file(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(value: Any) -> Any:
    """The value as JSON can hold it, the same for equal ones in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(name): _describe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        return {"array": of_tree(value)}
    if isinstance(value, np.dtype):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Fields that are not shown are links to others, such as a flax module's parent.
        shown = [field.name for field in dataclasses.fields(value) if field.repr]
        return {"class": type(value).__qualname__} | {
            name: _describe(vars(value)[name]) for name in shown
        }
    if isinstance(value, type):
        return value.__name__
    name = value.__qualname__ if callable(value) else "<>"
    if "<" in name:
        raise TypeError(f"no identity of a {type(value).__name__}: {value!r}"[:200])
    return name
