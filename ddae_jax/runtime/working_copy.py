"""The local folder in which a run works whose workdir is on an object store.

The store is the truth: at the start of a run the copy becomes what is there (`pull`).
While the run works, what it changes in the copy goes to the store (`push`), in an order
in which a run that is killed at any moment leaves there what the next can go on from:

1. files; those of JSON, which describe others, last;
2. checkpoints that orbax has finished. A checkpoint is in the store where its object
   COMMITTED is, which lists the others and comes last;
3. removals, of a checkpoint's COMMITTED first.

Names that begin with a dot, and unfinished files, stay local.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import time
import uuid
from collections.abc import Sequence

from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import copy_notes, store_lock
from ddae_jax.runtime.copy_notes import Notes
from ddae_jax.runtime.object_store import Store, StoredObject

COMMITTED = "committed.json"
PATIENCE = 300
"""Seconds for which a store may be out of reach."""
LARGE = 1 << 20
"""Bytes from which on a file of a checkpoint comes only when that is read."""
_ID = ".committed"  # in a checkpoint of the copy: which commit it is
_STEP = re.compile(r"((?:.*/)?checkpoints/\d+)/(.+)", re.DOTALL)
_UNFINISHED = (".part", ".__lock")


def pull(folder: pathlib.Path) -> None:
    """Makes the copy what the store holds.

    A checkpoint that is not whole is not there; of one that is damaged a line says so.

    Raises:
      UserError: the store cannot be read.
    """
    notes = copy_notes.read(folder)
    store = notes.store
    listed = store.list()
    notes.checkpoints = _committed(store, listed)
    for step in _local(folder).steps:
        known = notes.checkpoints.get(step)
        if known is None or known["id"] != _id(folder / step):
            shutil.rmtree(folder / step)
    fetch = _lacking(folder, notes, LARGE)
    remote = {name: entry for name, entry in listed.items() if _goes(name)}
    local = _local(folder).files
    for name in local.keys() - remote.keys():
        (folder / name).unlink()
    for name, entry in remote.items():
        if notes.files.get(name) != [*local.get(name, ()), entry.tag]:
            fetch[name] = folder / name
    if fetch:
        logging.info("bringing %d files of %s", len(fetch), notes.url)
    store.download(fetch)
    _remove_empty(folder)
    local = _local(folder).files
    notes.files = {n: [*local[n], e.tag] for n, e in remote.items()}
    for step, commit in notes.checkpoints.items():
        (folder / step).mkdir(parents=True, exist_ok=True)
        (folder / step / _ID).write_text(commit["id"])
    copy_notes.write(folder, notes)


def bring(checkpoint: pathlib.Path) -> None:
    """Brings the large files of a checkpoint, where it lies in a working copy.

    Raises:
      UserError: the store cannot be read.
    """
    folder = copy_notes.root(checkpoint)
    if folder is None:
        return
    with copy_notes.alone(folder):
        notes = copy_notes.read(folder)
        fetch = _lacking(folder, notes, None, checkpoint.relative_to(folder).as_posix())
        if fetch:
            logging.info("bringing %s", checkpoint)
        notes.store.download(fetch)


def push(path: pathlib.Path) -> None:
    """`push_once`, again and again for PATIENCE seconds where that fails.

    Raises:
      UserError: the store cannot be written, or another run has taken it.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return push_once(path)
        except store_lock.Lost:
            raise
        except UserError as error:
            if time.monotonic() > until:
                raise
            logging.warning("%s; trying again", error)
        time.sleep(PATIENCE / 60)


def push_once(path: pathlib.Path) -> None:
    """Brings what has changed in a copy to its store; nothing where `path` is in none.

    Raises:
      UserError: the store cannot be written, or another run has taken it.
    """
    folder = copy_notes.root(path)
    if folder is None:
        return
    with copy_notes.alone(folder):
        notes = copy_notes.read(folder)
        # The files after the checkpoints: what was written before a checkpoint goes
        # to the store before it.
        steps = _local(folder).steps
        files = _local(folder).files
        changed = [
            n for n, found in files.items() if notes.files.get(n, [])[:2] != found
        ]
        gone = [name for name in notes.files if name not in files]
        new, removed = [], [s for s in notes.checkpoints if s not in steps]
        for step in steps:
            known = notes.checkpoints.get(step)
            if known is None or known["id"] != _id(folder / step):
                new.append(step)
        if not (changed or gone or new or removed):
            return
        store_lock.check(notes.store, notes.owner)
        try:
            _push_files(folder, notes, changed, files)
            whole = [_push_checkpoint(folder, notes, step) for step in new]
            if all(whole):  # else orbax has removed it for a newer one: that comes next
                for step in removed:
                    _remove_checkpoint(notes, step)
            notes.store.remove(gone)
            for name in gone:
                del notes.files[name]
        finally:
            copy_notes.write(folder, notes)


def settle(folder: pathlib.Path) -> None:
    """Notes what the store holds now, so that the next run need not bring it again."""
    with copy_notes.alone(folder):
        notes = copy_notes.read(folder)
        listed = notes.store.list()
        for name, known in notes.files.items():
            if name in listed:
                notes.files[name] = [*known[:2], listed[name].tag]
        copy_notes.write(folder, notes)


def _goes(name: str) -> bool:
    """Whether a file goes to the store and comes from it by itself."""
    parts = name.split("/")
    local = any(p.startswith(".") or p.endswith(_UNFINISHED) for p in parts)
    return not (local or "checkpoints" in parts[:-1])


@dataclasses.dataclass(frozen=True)
class _Local:
    """What is in a copy.

    Attributes:
      files: name -> [size, time of change in ns], in the order of that time.
      steps: folders of the checkpoints that orbax has finished.
    """

    files: dict[str, list[int]]
    steps: list[str]


def _local(folder: pathlib.Path) -> _Local:
    files, steps = {}, []
    for root, folders, names in os.walk(folder):
        here = pathlib.Path(root).relative_to(folder)
        if here.name == "checkpoints":
            steps += [(here / f).as_posix() for f in folders if f.isdigit()]
            folders.clear()
        for name in (str(here / name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if _goes(name):
                    stat = (folder / name).stat()
                    files[name] = [stat.st_size, stat.st_mtime_ns]
    in_order = sorted(files.items(), key=lambda item: item[1][1])
    return _Local(dict(in_order), sorted(steps, key=lambda s: int(s.split("/")[-1])))


def _id(checkpoint: pathlib.Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (checkpoint / _ID).read_text()
    return None


def _committed(store: Store, listed: dict[str, StoredObject]) -> dict[str, dict]:
    """The checkpoints in the store that are whole: folder -> what COMMITTED says."""
    found = {}
    for name, entry in listed.items():
        match = _STEP.fullmatch(name)
        if match:
            found.setdefault(match[1], {})[match[2]] = entry.size
    whole = {}
    for step, sizes in found.items():
        if COMMITTED not in sizes:  # a run was killed while it wrote it
            continue
        try:
            commit = json.loads(store.read(f"{step}/{COMMITTED}") or b"")
            wanted = {str(n): int(size) for n, size in commit["files"].items()}
            whole[step] = {"id": str(commit["id"]), "files": wanted}
            damaged = [n for n, size in wanted.items() if sizes.get(n) != size]
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged = [COMMITTED]
        if damaged:
            whole.pop(step, None)
            logging.warning(
                "checkpoint %s/%s is damaged and not used: %s has %d bytes of %d",
                store.url,
                step,
                damaged[0],
                sizes.get(damaged[0], 0),
                wanted[damaged[0]] if damaged != [COMMITTED] else 0,
            )
    return whole


def _lacking(
    folder: pathlib.Path, notes: Notes, limit: int | None, only: str | None = None
) -> dict[str, pathlib.Path]:
    """Files of checkpoints, below `limit` bytes, that the copy lacks: name -> path."""
    lacking = {}
    for step, commit in notes.checkpoints.items():
        if only in (None, step):
            for name, size in commit["files"].items():
                path = folder / step / name
                there = path.is_file() and path.stat().st_size == size
                if not there and (limit is None or size < limit):
                    lacking[f"{step}/{name}"] = path
    return lacking


def _remove_empty(folder: pathlib.Path) -> None:
    for root, _, _ in os.walk(folder, topdown=False):
        if root != str(folder):
            with contextlib.suppress(OSError):
                os.rmdir(root)


def _push_files(
    folder: pathlib.Path,
    notes: Notes,
    names: Sequence[str],
    found: dict[str, list[int]],
) -> None:
    described = [name for name in names if not name.endswith(".json")]
    batches = [described, *([name] for name in names if name.endswith(".json"))]
    for batch in batches:
        # What is gone by now goes with the next removals.
        batch = {n: folder / n for n in batch if (folder / n).is_file()}
        with contextlib.suppress(FileNotFoundError):
            notes.store.upload(batch)
            notes.files |= {name: [*found[name], None] for name in batch}


def _push_checkpoint(folder: pathlib.Path, notes: Notes, step: str) -> bool:
    """Whether the checkpoint was there until all of it was in the store."""
    store = notes.store
    try:
        files = {
            path.relative_to(folder / step).as_posix(): path.stat().st_size
            for path in (folder / step).rglob("*")
            if path.is_file() and path.name != _ID
        }
        store.remove([f"{step}/{COMMITTED}"])
        notes.checkpoints.pop(step, None)
        store.upload({f"{step}/{name}": folder / step / name for name in files})
        commit = {"id": uuid.uuid4().hex, "files": files}
        store.write(f"{step}/{COMMITTED}", json.dumps(commit).encode())
        notes.checkpoints[step] = commit
        (folder / step / _ID).write_text(commit["id"])
    except FileNotFoundError:
        return False
    left = set(store.list(step)) - {f"{step}/{n}" for n in (COMMITTED, *files)}
    store.remove(left)  # of a run that was killed while it wrote this step
    return True


def _remove_checkpoint(notes: Notes, step: str) -> None:
    files = notes.checkpoints[step]["files"]
    notes.store.remove(f"{step}/{name}" for name in (COMMITTED, *files))
    del notes.checkpoints[step]
