"""What is refused of an object store before anything is computed, without a server."""

import sys

import pytest

from ddae_jax import load, main
from ddae_jax.errors import UserError
from ddae_jax.runtime import copy_notes, downloaded, store_lock, working_copy
from ddae_jax.runtime.copy_notes import Notes
from ddae_jax.runtime.object_store import Store, StoredObject
from ddae_jax.settings import command_line

DIGITS = "--config=configs/digits.py:test"


def refused(*words):
    with pytest.raises(UserError) as caught:
        command_line.parse(["main", DIGITS, *words], main.define_flags)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workdir=az://bucket/run"], "s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        (["--workdir=s3://bucket"], "name a folder in a bucket"),
        (["--workdir=s3:///run"], "name a folder in a bucket"),
        (["--config.fid.samples=s3://bucket/x.npz"], "config.fid.samples: s3://bucket"),
    ],
)
def test_a_url_that_names_no_workdir(words, told):
    assert told in refused(*words)


def test_the_package_that_is_lacking_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    told = refused("--workdir=gs://bucket/run")
    assert told == (
        "--workdir: gs://bucket/run needs the package gcsfs: pip install 'ddae_jax[gs]'"
    )


def test_a_model_is_loaded_from_a_disk():
    with pytest.raises(UserError, match="s3://bucket/run: copy it to a local folder"):
        load("s3://bucket/run")


def test_texts_have_the_url_that_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "s3://bucket/my runs/one"
    folder = copy_notes.folder_of(url)
    folder.mkdir(parents=True)
    assert copy_notes.root(folder / "checkpoints") is None
    copy_notes.write(folder, Notes(url))
    assert copy_notes.root(folder / "checkpoints") == folder
    assert copy_notes.as_given(f"no {folder}/a.json") == f"no {url}/a.json"
    assert copy_notes.root(tmp_path / "elsewhere") is None


class Bucket(Store):
    """Objects in memory."""

    def __init__(self, objects):
        super().__init__("s3://bucket/run", "--workdir")
        object.__setattr__(self, "objects", objects)

    def list(self, folder=""):
        return {
            name: StoredObject(len(content), str(hash(content)))
            for name, content in self.objects.items()
            if name.startswith(folder)
        }

    def read(self, name):
        return self.objects.get(name)

    def write(self, name, content):
        self.objects[name] = content

    def create(self, name, content):
        return self.objects.setdefault(name, content) is content

    def remove(self, names):
        for name in names:
            self.objects.pop(name, None)

    def download(self, files):
        for name, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.objects[name])


def test_a_lock_that_is_not_renewed_is_taken(monkeypatch):
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(store_lock.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(store_lock.time, "sleep", lambda _: None)
    bucket = Bucket({})
    store_lock.acquire(bucket, "first", {"host": "one"})
    store_lock.acquire(bucket, "second", {"host": "two"})
    with pytest.raises(store_lock.Lost):
        store_lock.renew(bucket, "first", {"host": "one"})
    store_lock.release(bucket, "second")
    assert not bucket.objects


def test_a_push_is_tried_again(monkeypatch, tmp_path):
    tries = []

    def push_once(path):
        tries.append(path)
        if len(tries) < 3:
            raise UserError("--workdir: out of reach")

    monkeypatch.setattr(working_copy, "push_once", push_once)
    monkeypatch.setattr(working_copy.time, "sleep", lambda _: None)
    working_copy.push(tmp_path)
    assert len(tries) == 3


def test_data_is_copied_again_where_it_changed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket = Bucket({"a/0.png": b"zero", "a/1.png": b"one"})
    monkeypatch.setattr(downloaded, "Store", lambda url, field: bucket)
    first = downloaded.local_folder("s3://bucket/run/", "config.data.folder")
    assert (first / "a/0.png").read_bytes() == b"zero"
    assert downloaded.local_folder("s3://bucket/run", "config.data.folder") == first
    bucket.objects["a/0.png"] = b"0"
    second = downloaded.local_folder("s3://bucket/run", "config.data.folder")
    assert second != first and second.name == "run"
    bucket.objects.clear()
    with pytest.raises(UserError, match="there is no folder"):
        downloaded.local_folder("s3://bucket/run", "config.data.folder")
