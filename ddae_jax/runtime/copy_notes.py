"""What a working copy knows of the object store that it is a copy of."""

import contextlib
import dataclasses
import fcntl
import hashlib
import pathlib
import re
from collections.abc import Iterator

from ddae_jax.runtime import files
from ddae_jax.runtime.object_store import Store

_NOTES = ".store.json"


@dataclasses.dataclass
class Notes:
    """Kept in the copy.

    Attributes:
      url: of the store.
      owner: of the store's lock: the run that works in the copy.
      files: what was brought: name -> [size, time of change here in ns, tag there;
        None where it was brought there and has one that is not known].
      checkpoints: what is whole in the store: folder -> {"id": of the commit, "files":
        {name: size}}.
    """

    url: str
    owner: str = ""
    files: dict[str, list] = dataclasses.field(default_factory=dict)
    checkpoints: dict[str, dict] = dataclasses.field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The workdir."""
        return Store(self.url, "--workdir")


def _copies() -> pathlib.Path:
    return files.cache_folder() / "workdirs"


def folder_of(url: str) -> pathlib.Path:
    """The local folder of a workdir on an object store, in the user's cache."""
    readable = re.sub(r"[^\w.-]+", "_", url.rpartition("/")[2])[:60]
    return _copies() / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def root(path: pathlib.Path) -> pathlib.Path | None:
    """The working copy in which `path` lies; None for all other folders."""
    path, start = path.absolute(), _copies()
    if path == start or not path.is_relative_to(start):
        return None
    folder = start / path.relative_to(start).parts[0]
    return folder if (folder / _NOTES).is_file() else None


def as_given(text: str) -> str:
    """`text` with the URLs of workdirs in place of their local folders."""
    start = f"{_copies()}/"
    if start in text:
        for name in set(re.findall(re.escape(start) + r"([\w.-]+)", text)):
            notes = read(_copies() / name)
            if notes is not None:
                text = text.replace(start + name, notes.url)
    return text


def read(folder: pathlib.Path) -> Notes | None:
    """The notes of a copy; None where there are none that can be used."""
    try:
        return Notes(**(files.read_json(folder / _NOTES) or {}))
    except TypeError:
        return None


def write(folder: pathlib.Path, notes: Notes) -> None:
    """Writes them, whole or not at all."""
    files.write_json(folder / _NOTES, dataclasses.asdict(notes))


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """No other thread and no other process reads or changes the notes meanwhile."""
    with (folder / ".notes.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
