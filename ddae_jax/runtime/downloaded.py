"""Folders of object stores, copied once to the user's cache to be read."""

import fcntl
import hashlib
import itertools
import pathlib
import re
import shutil

from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime import files
from ddae_jax.runtime.object_store import Store

_AT_ONCE = 256


def local_folder(url: str, field: str) -> pathlib.Path:
    """A local copy of a folder on an object store.

    What is read in place, such as memory maps, archives and array_record, needs a file
    system. The copy is of these names, sizes and tags: where one of them changes in the
    store there will be another copy. An interrupted copy goes on where it was.

    Args:
      field: what errors call `url`.

    Raises:
      UserError: nothing is there, it cannot be read, or the disk has no space for it.
    """
    store = Store(url.rstrip("/"), field)
    listed = store.list()
    if not listed:
        raise UserError(f"{field}: there is no folder {url}")
    facts = sorted((name, one.size, one.tag) for name, one in listed.items())
    identity = hashlib.sha256(repr((store.url, facts)).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "_", store.url.rpartition("/")[2])
    folder = files.cache_folder() / "data" / identity / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lacking = {
            name: folder / name
            for name, one in listed.items()
            if not _has_size(folder / name, one.size)
        }
        size = sum(listed[name].size for name in lacking)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"{field}: {url}: {size / 1e9:.3g} GB to copy to {folder}, where "
                f"{free / 1e9:.3g} GB are free"
            )
        if lacking:
            logging.info(
                "copying %d files, %.3g GB, of %s", len(lacking), size / 1e9, url
            )
        names = iter(lacking)
        while some := list(itertools.islice(names, _AT_ONCE)):
            store.download({name: lacking[name] for name in some})
    return folder


def _has_size(path: pathlib.Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
