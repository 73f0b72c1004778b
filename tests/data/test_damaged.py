"""Inputs that are damaged, or no files at all: one line, and never a wait."""

import gzip
import os
import pathlib
import pickle
import signal

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import image_folder, images, masks, sources, unlabelled
from ddae_jax.errors import UserError
from ddae_jax.metrics import statistics_files
from ddae_jax.runtime import files


@pytest.fixture(autouse=True)
def in_ten_seconds():
    def ring(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def one_line(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and len(message) < 400
    return message


@pytest.mark.parametrize("dimensions", [0, 5, 64, 65, 255])
def test_idx_of_many_dimensions(tmp_path, dimensions):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        header = bytes([0, 0, 8, dimensions]) + b"\0\0\0\1" * dimensions
        (tmp_path / name).write_bytes(header + b"\0")
    message = one_line(sources.load, "idx", "train", folder=str(tmp_path))
    assert f"its header says {dimensions} dimensions" in message


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\3\0\0\0\1"])
def test_idx_cut_in_its_header(tmp_path, content):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(content)
    one_line(sources.load, "idx", "train", folder=str(tmp_path))


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    header = b"\0\0\x08\1\0\0\0\3"
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(header + bytes(100 << 20), 1))
    message = one_line(sources.load, "idx", "train", folder=str(tmp_path))
    assert "says 3 bytes of data (3,), file has more than 3" in message


def write_cifar(folder, labels=(0, 1), meta=None, names=("a", "b", "c")):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir()
    meta = {b"label_names": names} if meta is None else meta
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": labels}
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    return folder


@pytest.mark.parametrize(
    "labels",
    [
        *("ab", b"ab", None, 7, 0.5, {0: 1}, ["a", "b"], [0, None], [0.0, 1.0]),
        *([[0], [1]], [True, False], np.int64(1)),
        *(np.zeros((2, 1), int), np.zeros(2), np.array(3)),
    ],
)
def test_cifar_labels_that_are_no_numbers(tmp_path, labels):
    write_cifar(tmp_path, labels)
    message = one_line(sources.load, "cifar10", "train", folder=str(tmp_path))
    assert "data_batch_1: " in message and "label" in message


@pytest.mark.parametrize(
    "labels", [(0, 2), np.array([0, 2], np.uint8), [np.int64(0), 2]]
)
def test_cifar_labels_of_any_numbers(tmp_path, labels):
    write_cifar(tmp_path, labels)
    train = sources.load("cifar10", "train", folder=str(tmp_path))
    assert train.labels.tolist() == [0, 2] * 5


@pytest.mark.parametrize(
    "names",
    [None, 3, "abc", b"abc", [], [b"\xff\xfe", b"b"], [None, "b"], [["a"], "b"]],
)
def test_cifar_names_that_are_no_names(tmp_path, names):
    write_cifar(tmp_path, names=names)
    message = one_line(sources.load, "cifar10", "train", folder=str(tmp_path))
    assert "batches.meta: " in message


def test_cifar_meta_that_is_none(tmp_path):
    folder = write_cifar(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps(None))
    message = one_line(sources.load, "cifar10", "train", folder=str(tmp_path))
    assert message.endswith("batches.meta: has no entry 'label_names'")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def tiny(tmp_path):
    for name in ("n01", "n02"):
        picture(tmp_path / "train" / name / "images" / "0.JPEG")
    picture(tmp_path / "val" / "images" / "0.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text("0.JPEG\tn01\n")
    return tmp_path


@pytest.mark.parametrize(
    ("table", "split"), [("words.txt", "train"), ("val/val_annotations.txt", "test")]
)
def test_tiny_imagenet_tables_that_are_not_utf8(tiny, table, split):
    (tiny / table).write_bytes(b"n01\t\xff\xfe\n")
    message = one_line(sources.load, "tiny_imagenet", split, folder=str(tiny))
    assert message.startswith(f"{tiny / table}: cannot be read")


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def zeros(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "kind"), [(pipe, "a named pipe"), (zeros, "a device")]
)
def test_what_is_no_regular_file_is_refused(tiny, make, kind):
    def refused(call, path, *arguments, **options):
        make(pathlib.Path(path))
        message = one_line(call, *arguments, **options)
        assert message == f"{path}: not a regular file but {kind}"
        pathlib.Path(path).unlink()

    folder = write_cifar(tiny)
    for name in ("data_batch_1", "batches.meta"):
        arguments = (sources.load, folder / name, "cifar10", "train")
        refused(*arguments, folder=str(tiny))
        write = {"batches.meta": {b"label_names": ("a", "b")}}.get(name, {})
        (folder / name).write_bytes(pickle.dumps(write))
    packed = tiny / "apart" / "cifar-10-python.tar.gz"
    packed.parent.mkdir()
    for given in (packed.parent, packed):
        refused(sources.load, packed, "cifar10", "train", folder=str(given))
    idx = tiny / "idx"
    idx.mkdir()
    (idx / "train-labels-idx1-ubyte").write_bytes(b"")
    refused(
        sources.load, idx / "train-images-idx3-ubyte", "idx", "train", folder=str(idx)
    )
    path = tiny / "words.txt"
    refused(sources.load, path, "tiny_imagenet", "train", folder=str(tiny))
    path = tiny / "train" / "n01" / "images" / "1.png"
    refused(sources.load, path, "image_folder", "train", folder=str(tiny))
    refused(unlabelled.open_folder, path, tiny / "train")
    refused(image_folder.image_files, path, tiny)
    path = tiny / "x.npz"
    refused(unlabelled.open_npz, path, path)
    refused(statistics_files.read_statistics, path, path)
    refused(statistics_files.read_statistics, tiny / "x.pkl", tiny / "x.pkl")
    path = tiny / "x.png"
    refused(images.decode, path, path, "x")
    refused(images.header_size, path, path)
    refused(masks.read_mask, path, path)
    refused(files.read_regular, path, path)


def test_broken_links_and_folders_are_named(tiny):
    path = tiny / "train" / "n01" / "images" / "1.png"
    path.symlink_to(tiny / "gone")
    message = one_line(sources.load, "image_folder", "train", folder=str(tiny))
    assert message == f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(UserError, match="not a regular file but a folder"):
        files.read_regular(tiny)
    path.unlink()
    path.mkdir()  # a folder whose name ends in .png
    assert len(sources.load("image_folder", "train", folder=str(tiny))) == 2


def test_names_with_line_breaks_stay_one_line(tmp_path):
    path = picture(tmp_path / "train" / "a\nb\u2028c" / "x\r\ny.png")
    path.write_bytes(b"no image")
    message = one_line(sources.load, "image_folder", "train", folder=str(tmp_path))
    assert "a b c/x y.png: not a readable image" in message
