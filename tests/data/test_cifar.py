"""The CIFAR python archives, written here; harmful pickles are refused."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from ddae_jax.data import cifar_archive, sources
from ddae_jax.errors import UserError
from tests.tools.data_files import write_cifar


def pack(folder, name):
    archive = cifar_archive.ARCHIVES[name]
    path = folder / archive.packed
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / archive.unpacked, archive.unpacked)
    for file in (folder / archive.unpacked).iterdir():
        file.unlink()
    (folder / archive.unpacked).rmdir()
    return path


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("protocol", [2, 5])
def test_reads_packed_and_unpacked(tmp_path, name, packed, protocol):
    images, labels = write_cifar(tmp_path, name, protocol)
    if packed:
        pack(tmp_path, name)
    train = sources.load(name, "train", folder=str(tmp_path))
    np.testing.assert_array_equal(train.images, images)
    assert train.labels.tolist() == labels
    assert train.class_names[3] == "class3"
    assert len(sources.load(name, "test", folder=str(tmp_path))) == 4


def test_folder_may_be_the_batches_or_the_archive_itself(tmp_path):
    write_cifar(tmp_path, "cifar10")
    inside = tmp_path / "cifar-10-batches-py"
    assert len(sources.load("cifar10", "train", folder=str(inside))) == 20
    path = pack(tmp_path, "cifar10")
    assert len(sources.load("cifar10", "train", folder=str(path))) == 20


def test_python_2_strings_are_read(tmp_path):
    # Python 2 wrote the published archive: its strings are SHORT_BINSTRING opcodes.
    content = b"\x80\x02}U\x06labels]K\x03as."
    assert cifar_archive.safe_unpickle(content, "x") == {b"labels": [3]}


class Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_malicious_pickle_is_refused(tmp_path, protocol):
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    marker = tmp_path / "harm"
    path.write_bytes(pickle.dumps({b"data": Harmful(marker)}, protocol))
    with pytest.raises(UserError, match=r"refused, the pickle asks for \w+.mkdir") as e:
        sources.load("cifar10", "train", folder=str(tmp_path))
    assert str(path) in str(e.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
        b"cnumpy\ndtype\n(VO\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.",
    ],
)
def test_other_callables_are_refused(content):
    with pytest.raises(UserError, match="file: refused"):
        cifar_archive.safe_unpickle(content, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "corrupt or truncated"),
        (b"\x80\x02}", "corrupt or truncated"),
        (pickle.dumps([1]), "has no entry 'data'"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}), "entry 'labels'"),
        (pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]}), "uint8"),
        (pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}), "uint8"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}),
            "1 labels, 2 images",
        ),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}),
            "outside 0..9",
        ),
    ],
)
def test_damaged_batches_are_named(tmp_path, content, message):
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        sources.load("cifar10", "train", folder=str(tmp_path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_batch_and_truncated_archive_are_named(tmp_path):
    write_cifar(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(UserError, match="data_batch_4: cannot be read"):
        sources.load("cifar10", "train", folder=str(tmp_path))
    path = pack(tmp_path, "cifar10")
    with pytest.raises(UserError, match="has no cifar-10-batches-py/data_batch_4"):
        sources.load("cifar10", "train", folder=str(tmp_path))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"tar\.gz: corrupt or truncated archive"):
        sources.load("cifar10", "train", folder=str(tmp_path))
