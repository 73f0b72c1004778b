"""One run at a time in a folder of an object store: a lock that has to be renewed."""

import json
import time
from collections.abc import Mapping

from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime.object_store import Store

NAME = ".lock"
SECONDS = 60
"""A lock that was not renewed for so long is nobody's."""
RENEW = 10
"""Seconds after which a run renews its lock."""


class Lost(UserError):
    """Another run has taken the workdir."""


def acquire(store: Store, owner: str, place: Mapping[str, str | int]) -> None:
    """Takes the lock; waits for one that its run may have left behind.

    Args:
      owner: a name of this run, unique.
      place: facts that two runs share only where they cannot both be alive.

    Raises:
      UserError: another run has it, or the store cannot be written.
    """
    content = json.dumps({"owner": owner, "place": place}).encode()
    first = other = None
    since = time.monotonic()
    while not store.create(NAME, content):
        found = store.read(NAME)
        if found is None:
            continue
        other = _content(found)
        if other.get("place") == place:  # it is dead: we hold the local lock
            break
        if first is None:
            first = found
            host = other.get("place", {}).get("host")
            logging.info(
                "%s has the lock of a run on %s: waiting whether it is alive, %d s",
                store.url,
                host,
                SECONDS,
            )
        elif found != first:
            raise UserError(
                f"{store.field}: another run works in {store.url} (on "
                f"{other.get('place', {}).get('host')}); wait for it, or name another "
                "folder"
            )
        if time.monotonic() - since > SECONDS:
            break
        time.sleep(1)
    else:
        return
    store.write(NAME, content)
    time.sleep(1)  # one of two that take it over at once finds the other's
    check(store, owner)


def renew(store: Store, owner: str, place: Mapping[str, str | int]) -> None:
    """Tells others that the run is alive.

    Raises:
      Lost: it is not ours any more.
    """
    check(store, owner)
    content = {"owner": owner, "place": place, "time": time.time()}
    store.write(NAME, json.dumps(content).encode())


def check(store: Store, owner: str) -> None:
    """Raises Lost where the lock is not `owner`'s."""
    found = store.read(NAME)
    if found is None or _content(found).get("owner") != owner:
        raise Lost(f"{store.field}: another run has taken {store.url}: this one ends")


def release(store: Store, owner: str) -> None:
    """Gives the lock back."""
    check(store, owner)
    store.remove([NAME])


def _content(found: bytes) -> dict:
    try:
        content = json.loads(found)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
