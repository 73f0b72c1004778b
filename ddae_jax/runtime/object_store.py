"""Folders on object stores, s3:// and gs://, through fsspec."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ddae_jax.errors import UserError

if TYPE_CHECKING:
    import fsspec

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_AT_ONCE = 8  # files; s3fs takes 50 MB of memory for each
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """An object, as a listing tells it.

    Attributes:
      size: in bytes.
      tag: changes with the content.
    """

    size: int
    tag: str


def is_url(path: str | os.PathLike) -> bool:
    """Whether this is SCHEME://..., and no path of a file system."""
    return _URL.match(os.fspath(path)) is not None


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder on an object store. What goes wrong there is a UserError of one line.

    Attributes:
      url: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.
      field: what errors call it, such as "--workdir".
    """

    url: str
    field: str

    @functools.cached_property
    def _files(self) -> "fsspec.AbstractFileSystem":
        """The file system of fsspec; another process's objects are seen at once.

        Raises:
          UserError: it is no folder of a kind that we know, or a package is lacking.
        """
        scheme, place = _URL.fullmatch(self.url).groups()
        if scheme not in _PACKAGES:
            raise UserError(
                f"{self.field}: {self.url}: a local folder, s3://BUCKET/FOLDER or "
                "gs://BUCKET/FOLDER"
            )
        if not all(place.partition("/")[::2]):
            raise UserError(f"{self.field}: {self.url}: name a folder in a bucket")
        package = _PACKAGES[scheme]
        try:
            import fsspec

            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise UserError(
                f"{self.field}: {self.url} needs the package {package}: pip install "
                f"'ddae_jax[{scheme}]'"
            ) from error
        except Exception as error:  # gcsfs asks for credentials here
            raise UserError(f"{self.field}: {self.url}: {_reason(error)}") from error

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def _one_line(self, *let_through: type[Exception]) -> Iterator[None]:
        try:
            yield
        except (UserError, *let_through):
            raise
        # Each of the libraries below has its own exceptions, most of them of no family.
        except Exception as error:
            raise UserError(f"{self.field}: {self.url}: {_reason(error)}") from error

    def list(self, folder: str = "") -> dict[str, StoredObject]:
        """All objects, or those of a folder in it: name -> entry.

        Names begin at `url`; what stands for a folder is left out.

        Raises:
          UserError: there is no such bucket, or it cannot be reached or read.
        """
        files = self._files
        with self._one_line():
            start = len(self.url.partition("://")[2]) + 1
            found = files.find(self._at(folder) if folder else self.url, detail=True)
            listed = {
                path[start:]: StoredObject(
                    int(info["size"]), str(info.get("ETag") or info.get("etag"))
                )
                for path, info in found.items()
                if info["type"] == "file" and not path.endswith("/") and path[start:]
            }
        for name in listed:  # they become the names of local files
            if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
                raise UserError(f"{self.field}: {self.url}: no file name: {name!r}")
        return listed

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        files = self._files
        with self._one_line(FileNotFoundError):
            try:
                return files.cat_file(self._at(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whole or not at all."""
        files = self._files
        with self._one_line():
            files.pipe_file(self._at(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object where there is none; whether it did. Atomic."""
        files = self._files
        with self._one_line():
            try:
                files.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                return False
            return True

    def upload(self, files: Mapping[str, pathlib.Path]) -> None:
        """Copies local files to objects of these names, several at once.

        Raises:
          FileNotFoundError: a local file is gone.
          UserError: the store cannot be written.
        """
        if files:
            remote = self._files
            with self._one_line():
                try:
                    remote.put(
                        [*map(str, files.values())],
                        [*map(self._at, files)],
                        batch_size=_AT_ONCE,
                    )
                except FileNotFoundError as error:
                    missing = error
                else:
                    return
            for path in files.values():
                path.stat()
            raise UserError(f"{self.field}: {self.url}: {_reason(missing)}")

    def download(self, files: Mapping[str, pathlib.Path]) -> None:
        """Copies objects to local files, each of which appears whole."""
        if not files:
            return
        parts = {
            path: path.with_name(f".{path.name}.download") for path in files.values()
        }
        for path in parts:
            path.parent.mkdir(parents=True, exist_ok=True)
        remote = self._files
        with self._one_line():
            remote.get(
                [*map(self._at, files)],
                [*map(str, parts.values())],
                batch_size=_AT_ONCE,
            )
        for path, part in parts.items():
            part.replace(path)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; one that is not there is none the worse."""
        files = self._files
        for (
            name
        ) in names:  # not all at once: fsspec takes * and [] in lists as patterns
            with self._one_line(), contextlib.suppress(FileNotFoundError):
                files.rm_file(self._at(name))


def _reason(error: Exception) -> str:
    """What went wrong, for people, in one line."""
    text = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    if "redential" in kind + text:
        text = f"no credentials: {text}"
    elif isinstance(error, FileNotFoundError):
        text = "there is no such bucket"
    elif isinstance(error, PermissionError):
        text = f"no permission: {text}"
    return text or kind
