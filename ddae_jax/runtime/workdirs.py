"""Workdirs as they are given: local folders, or URLs of object stores."""

import contextlib
import os
import pathlib
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import (
    copy_notes,
    exits,
    files,
    parallel,
    processes,
    store_lock,
    working_copy,
)
from ddae_jax.runtime.copy_notes import Notes
from ddae_jax.runtime.object_store import Store, is_url

_EVERY = 2  # seconds after which changes go to the store


@contextlib.contextmanager
def seen(given: str) -> Iterator[pathlib.Path]:
    """A folder in which to read what describes a workdir, before a run begins in it.

    The folder itself; for one on an object store a copy of its JSON files, with an
    empty folder "checkpoints" where there are some.

    Raises:
      UserError: the store cannot be read.
    """
    if not is_url(given):
        yield pathlib.Path(given)
        return
    url = given.rstrip("/")
    store = Store(url, "--workdir")
    names = store.list()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        store.download(
            {n: folder / n for n in names if n.endswith(".json") and "/" not in n}
        )
        if any(name.startswith("checkpoints/") for name in names):
            (folder / "checkpoints").mkdir()
        try:
            yield folder
        except UserError as error:
            raise UserError(str(error).replace(temporary, url)) from error


@contextlib.contextmanager
def opened(given: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder in which a run works, its alone; see `files.only_run_in`.

    For a workdir on an object store, all processes of the run share a working copy in
    the user's cache, which process 0 brings up to date, and whose changes it brings to
    the store, until the block is left.

    Raises:
      UserError: another run works there, or it cannot be read and written; or the
        processes are on several hosts, and the workdir on an object store.
    """
    if not is_url(given):
        with processes.held_by_first(files.only_run_in(given)):
            yield pathlib.Path(given)
        return
    url = str(given).rstrip("/")
    folder = copy_notes.folder_of(url)
    with processes.held_by_first(_working_copy(folder, url)):
        if not parallel.all_processes(_same_copy(folder)):
            raise UserError(
                f"--workdir: {url}: several hosts write one checkpoint to a file "
                "system that all of them see: mount the bucket (gcsfuse, mountpoint-s3)"
            )
        yield folder


@contextlib.contextmanager
def _working_copy(folder: pathlib.Path, url: str) -> Iterator[None]:
    with files.only_run_in(folder), _in_store(folder, url):
        yield


def _same_copy(folder: pathlib.Path) -> bool:
    """Whether this process sees the copy of process 0."""
    notes = copy_notes.read(folder)
    mine = np.frombuffer((notes.owner if notes else "0" * 32).encode(), np.uint8)
    if jax.process_count() == 1:
        return True
    from jax.experimental import multihost_utils

    return bool((multihost_utils.broadcast_one_to_all(mine) == mine).all())


@contextlib.contextmanager
def _in_store(folder: pathlib.Path, url: str) -> Iterator[None]:
    """The copy is what the store holds, and at the end the store what the copy is."""
    notes = copy_notes.read(folder)
    if notes is None or notes.url != url:
        notes = Notes(url)
    notes.owner = uuid.uuid4().hex
    lock = os.stat(folder / ".lock")
    place = {"host": socket.gethostname(), "device": lock.st_dev, "inode": lock.st_ino}
    store_lock.acquire(notes.store, notes.owner, place)
    try:
        copy_notes.write(folder, notes)
        working_copy.pull(folder)
        over = threading.Event()
        words = (folder, notes, place, over)
        thread = threading.Thread(target=_keep_up, args=words, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            working_copy.push(folder)
            working_copy.settle(folder)
    finally:
        store_lock.release(notes.store, notes.owner)


def _keep_up(folder, notes, place, over):
    """Brings changes to the store and renews the lock; all else goes on meanwhile."""
    renewed, told = time.monotonic(), ""
    while not over.wait(_EVERY):
        try:
            working_copy.push_once(folder)
            if time.monotonic() - renewed > store_lock.RENEW:
                renewed = time.monotonic()
                store_lock.renew(notes.store, notes.owner, place)
            told = ""
        except store_lock.Lost as error:
            exits.leave(f"error: {error}", 2)
        except Exception as error:  # nobody else would renew the lock
            if str(error) != told:
                told = str(error)
                logging.warning("%s; trying again", told)
