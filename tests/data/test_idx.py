"""IDX files: written here, raw and gzipped, then damaged."""

import gzip
import pathlib

import numpy as np
import pytest

from ddae_jax.data import idx, sources
from ddae_jax.errors import UserError
from tests.tools.data_files import encode_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (7, 5, 5), dtype=np.uint8), np.arange(7) % 3


@pytest.fixture
def folder(tmp_path, arrays):
    for name, array in zip((IMAGES, LABELS), arrays, strict=True):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(encode_idx(array)))
    return tmp_path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["idx", "fashion_mnist"])
def test_reads_raw_and_gzip(folder, arrays, packed, name):
    if not packed:
        for path in list(folder.iterdir()):
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    loaded = sources.load(name, "train", folder=str(folder), image_size=6)
    np.testing.assert_array_equal(loaded.images[:, :5, :5, 0], arrays[0])
    assert loaded.labels.tolist() == arrays[1].tolist()
    assert loaded.labels.dtype == np.int32
    assert len(loaded.class_names) == (3 if name == "idx" else 10)
    with pytest.raises(UserError, match="t10k-images"):
        sources.load(name if name == "idx" else "idx", "test", folder=str(folder))


def test_reads_rgb_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), dtype=np.uint8)
    (tmp_path / "train-images-idx4-ubyte").write_bytes(encode_idx(images))
    (tmp_path / LABELS).write_bytes(encode_idx(np.arange(4)))
    loaded = sources.load("idx", "train", folder=str(tmp_path))
    np.testing.assert_array_equal(loaded.images, images)


def damage(folder, name, change):
    path = folder / f"{name}.gz"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (IMAGES, lambda data: data[:-12], "corrupt or truncated"),
        (IMAGES, lambda data: data[:20] + b"\xff" * 9 + data[29:], "corrupt"),
        (IMAGES, lambda data: b"not gzip at all", "corrupt"),
        (
            LABELS,
            lambda data: gzip.compress(gzip.decompress(data)[:-1]),
            r"header says 7 bytes of data \(7,\), file has 6",
        ),
        (
            LABELS,
            lambda data: gzip.compress(b"\0\0\x0d" + gzip.decompress(data)[3:]),
            "not an IDX file",
        ),
        (LABELS, lambda data: gzip.compress(b"\0"), "not an IDX file"),
        (LABELS, lambda data: gzip.compress(b"\0\0\x08\x01\0"), "header"),
        (
            LABELS,
            lambda data: gzip.compress(encode_idx(np.zeros(6))),
            "6 labels, but .*images-idx3-ubyte.gz has 7 images",
        ),
        (
            LABELS,
            lambda data: gzip.compress(encode_idx(np.zeros((7, 1, 1)))),
            "label each",
        ),
        (LABELS, lambda data: gzip.compress(encode_idx(np.full(7, 12))), "label 12"),
        (IMAGES, lambda data: gzip.compress(encode_idx(np.zeros((7, 5)))), "shape"),
    ],
)
def test_damaged_files_are_named(folder, file, change, message):
    damage(folder, file, change)
    with pytest.raises(UserError, match=message) as error:
        sources.load("fashion_mnist", "train", folder=str(folder))
    assert f"{folder / file}.gz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", [IMAGES, LABELS])
def test_a_missing_half_is_named(folder, file):
    (folder / f"{file}.gz").unlink()
    with pytest.raises(UserError, match=f"{file}: missing"):
        sources.load("idx", "train", folder=str(folder))


@pytest.mark.skipif(
    not pathlib.Path(sources.FASHION_MNIST_FOLDER).is_dir(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_fashion_mnist_of_debian():
    test = sources.load("fashion_mnist", "test", image_size=32)
    assert test.images.shape == (10000, 32, 32, 1)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert not test.images[:, :2].any() and not test.images[:, :, -2:].any()
    assert test.class_names[9] == "Ankle boot"
    paths = idx.find(sources.FASHION_MNIST_FOLDER, "test")
    np.testing.assert_array_equal(test.images[:, 2:-2, 2:-2, 0], idx.read(paths[0]))
