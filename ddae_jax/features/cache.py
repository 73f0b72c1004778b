"""`encode.encode_set` through files: extracted once, read from then on.

A folder holds one zarr array for each tap and time, float32 (count, features), in
chunks of rows with a CRC-32C each. TensorStore writes a chunk whole or not at all, and
does not read a damaged one.
"""

import collections
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import tensorstore
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.features.encode import Encode, encode_batches
from ddae_jax.runtime import identity, log, parallel, processes
from ddae_jax.runtime.files import write_json

# Rows of a chunk: what an interruption can cost, and what waits in memory.
CHUNK = 1024

Features = Float[np.ndarray, "count features"] | tensorstore.TensorStore
"""In memory, or on disk: `np.asarray` reads all of it, a slice of it those rows."""


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Features of one network on disk.

    Attributes:
      folder: of all caches; each is a folder in it, with about.json.
      model: what makes the features: `model_identity`.
      name: begins the folders' names, for people: "step00012000".
    """

    folder: pathlib.Path
    model: str
    name: str


def model_identity(encode: Encode, params: dict) -> str:
    """Hash of an encoder and all its weights; which taps it gives does not matter."""
    return identity.of(encode=encode.select(()), weights=identity.of_tree(params))


def encode_set(
    cache: FeatureCache,
    encode: Encode,
    params: dict,
    mesh: Mesh,
    source: Source,
    times: Sequence[float],
    key: PRNGKeyArray,
    batch_size: int,
    label: str,
) -> list[dict[str, tensorstore.TensorStore]]:
    """`encode.encode_set` on disk; only what is missing is computed.

    One forward pass per batch and time gives all missing taps. An interrupted
    extraction continues after its last whole chunk, a damaged array from the chunk on.
    With several processes, process 0 writes and all read: they share `cache.folder`.

    Args:
      times: the process's own.
      label: says what `key` stands for, such as "seed0_draw1", in the folder's name.

    Returns:
      for each time, name -> float32 (len(source), features), read when asked for.

    Raises:
      OSError: no space is left, or the folder cannot be written.
    """
    facts = {
        "model": cache.model,
        "split": source.split,
        "count": len(source),
        "images": of_source(source),
        "noise": label,
        "noise_key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    words = (cache.name, source.name, source.split, len(source), label)
    readable = "_".join(re.sub(r"[^\w.-]", "-", str(word)) for word in words)
    folder = cache.folder.absolute() / f"{readable}_{identity.of(**facts)[:12]}"
    paths = [
        {name: folder / _array_name(name, time) for name in encode.names}
        for time in times
    ]
    writes = jax.process_index() == 0
    count = len(source)
    flat = [(i, name) for i, at_time in enumerate(paths) for name in at_time]

    def begin():
        write_json(folder / "about.json", facts)
        return [_whole_rows(paths[i][name], count) for i, name in flat]

    with processes.held_by_first(lock(folder)):
        rows = processes.on_first(begin)
        missing = [
            cell for cell, whole in zip(flat, rows, strict=True) if whole < count
        ]
        if missing:
            # All chunks before this one are whole, in every array.
            start = min(rows)
            logging.info(
                "features of %s %s: %d of %d arrays, from image %d of %d",
                *(source.name, source.split, len(missing), len(flat), start, count),
            )
            at_times = {
                i: encode.select(tuple(name for j, name in missing if j == i))
                for i in dict.fromkeys(i for i, _ in missing)
            }
            encoders = [(encode_here, times[i]) for i, encode_here in at_times.items()]
            batches = encode_batches(
                encoders, params, mesh, source, key, batch_size, start
            )
            batches = log.told("features", count, batches)
            _write([paths[i] for i in at_times], batches, start, count, writes)
    parallel.all_processes(True)  # all of it is there
    return [{name: _open(path) for name, path in at.items()} for at in paths]


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[None]:
    """Makes `folder`, and waits until no other process works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _array_name(name: str, time: float) -> str:
    return f"{urllib.parse.quote(name, safe='')}_time{time:.9g}"


def _spec(path: pathlib.Path) -> dict:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}


def _open(path: pathlib.Path, **options: bool) -> tensorstore.TensorStore:
    return tensorstore.open(_spec(path), open=True, read=True, **options).result()


def _create(path: pathlib.Path, shape: tuple[int, ...]) -> tensorstore.TensorStore:
    chunk = {"chunk_shape": [CHUNK, *shape[1:]]}
    metadata = {
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": chunk},
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    # A chunk of zeros is stored too: one that is not there was not computed.
    spec = {"metadata": metadata, "store_data_equal_to_fill_value": True}
    return tensorstore.open(
        _spec(path) | spec, create=True, delete_existing=True
    ).result()


def _chunk(first: int, rank: int) -> bytes:
    """Key of the chunk that begins with row `first`."""
    return "/".join(["c", str(first // CHUNK), *"0" * (rank - 1)]).encode()


def _whole_rows(path: pathlib.Path, count: int) -> int:
    """How many rows, from the first on, are on disk and undamaged: all are read."""
    try:
        store = _open(path)
    except ValueError:  # none, or its metadata is damaged
        return 0
    grid = store.chunk_layout.read_chunk.shape
    if store.shape[0] != count or grid != (CHUNK, *store.shape[1:]):
        return 0
    present = set(store.kvstore.list().result())
    for first in range(0, count, CHUNK):
        key = _chunk(first, store.rank)
        if key not in present:
            return first
        try:
            store[first : min(first + CHUNK, count)].read().result()
        except ValueError as error:
            reason = str(error).split("\n")[0][:200]
            logging.warning("%s: redone from row %d on: %s", path, first, reason)
            # All later chunks are written anew, and TensorStore would read what is
            # there before it writes a part of one.
            for later in range(first, count, CHUNK):
                store.kvstore.write(_chunk(later, store.rank), None).result()
            return first
    return count


def _write(
    paths: Sequence[dict[str, pathlib.Path]],
    batches: Iterator[tuple[int, list[dict[str, np.ndarray]]]],
    start: int,
    count: int,
    writes: bool,
) -> None:
    """Writes batches of features, chunk by chunk; without `writes` it only takes part.

    Args:
      paths: for each output of a batch, name -> its array.
      start: the first row, of a chunk.
    """
    stores, waiting, continued = {}, collections.defaultdict(list), start > 0
    for first, outputs in batches:
        if not writes:
            continue
        for at_time, output in zip(paths, outputs, strict=True):
            for name, rows in output.items():
                waiting[at_time[name]].append(rows)
        seen = first + len(rows)
        stop = seen if seen == count else seen - seen % CHUNK
        if stop <= start:
            continue
        pending = []
        with _os_errors():
            for path, parts in waiting.items():
                rows = np.concatenate(parts)
                if path not in stores:
                    stores[path] = (
                        _open(path, write=True)
                        if continued
                        else _create(path, (count, *rows.shape[1:]))
                    )
                here, waiting[path] = rows[: stop - start], [rows[stop - start :]]
                pending.append(stores[path][start:stop].write(here))
            for write in pending:
                write.result()
        start = stop


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Makes TensorStore's errors of the operating system OSErrors again."""
    try:
        yield
    except ValueError as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        if found is None:
            raise
        code = int(found.group(1))
        raise OSError(code, os.strerror(code), "feature cache") from error
