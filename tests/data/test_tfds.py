"""A small TFDS set, written here as array_record, read without TensorFlow."""

import http.server
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ddae_jax.data import sources, tfds_source
from ddae_jax.errors import UserError
from tests.tools import tiny_tfds


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tiny_tfds.write(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def copied(written, tmp_path):
    shutil.copytree(written, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("resident_bytes", [0, 10_000])
def test_reads_prepared_set(written, resident_bytes):
    train = sources.load(
        "tfds:tiny_pictures",
        "train",
        folder=str(written),
        image_size=6,
        resident_bytes=resident_bytes,
    )
    assert (train.images is None) == (resident_bytes == 0)
    assert train.image_shape == (6, 6, 3) and len(train) == 8
    values = train.read(np.arange(8))[:, 3, 3, 0]
    assert sorted(values.tolist()) == list(range(8))
    np.testing.assert_array_equal(values % 2, train.labels)
    assert train.class_names == ("even", "odd")


def test_test_falls_back_to_validation_and_default_folder(written, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(written))
    test = sources.load("tfds:tiny_pictures", "test", channels=1)
    assert test.split == "validation" and test.image_shape == (4, 4, 1)
    with pytest.raises(UserError, match="no split 'tes', known: train, validation"):
        sources.load("tfds:tiny_pictures", "tes")


def test_named_sets_are_read_from_tfds_too(copied):
    (copied / "tiny_pictures").rename(copied / "cifar10")
    info = copied / "cifar10" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"tiny_pictures"', '"cifar10"'))
    for path in list(info.parent.glob("tiny_pictures-*")):
        path.rename(path.with_name(path.name.replace("tiny_pictures", "cifar10")))
    assert len(sources.load("cifar10", "train", folder=str(copied))) == 8
    shutil.move(copied / "cifar10", copied / "fashion_mnist")
    info = copied / "fashion_mnist" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"cifar10"', '"fashion_mnist"'))
    for path in list(info.parent.glob("cifar10-*")):
        path.rename(path.with_name(path.name.replace("cifar10", "fashion_mnist")))
    assert len(sources.load("fashion_mnist", "test", folder=str(copied))) == 4


def test_many_sizes_need_image_size(written):
    with pytest.raises(UserError, match="images of many sizes: set image_size"):
        sources.load("tfds:tiny_widths", "train", folder=str(written))
    train = sources.load("tfds:tiny_widths", "train", folder=str(written), image_size=3)
    assert train.images.shape == (8, 3, 3, 3)


def test_versions_and_configurations(copied):
    base = copied / "tiny_pictures"
    shutil.copytree(base / "1.2.0", base / "1.10.0")
    assert tfds_source.find("tiny_pictures", copied).name == "1.10.0"
    assert tfds_source.find("tiny_pictures:1.2.0", copied).name == "1.2.0"
    assert tfds_source.find("tiny_pictures:3.0.0", copied) is None
    (copied / "many").mkdir()
    shutil.copytree(base, copied / "many" / "small")
    assert tfds_source.find("many", copied).parent.name == "small"
    shutil.copytree(base, copied / "many" / "large")
    with pytest.raises(UserError, match="many/large, many/small"):
        tfds_source.find("many", copied)
    assert tfds_source.find("many/small", copied).parent.name == "small"


def test_reading_imports_no_tensorflow(written):
    code = (
        "import sys; from ddae_jax.data import sources; "
        f"s = sources.load('tfds:tiny_pictures', 'train', folder={str(written)!r}); "
        "s.read([0]); "
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:1000], "damaged: 0 records, expected 8"),
        (lambda data: data[:100] + b"\xff" * 300 + data[400:], "cannot be read"),
        (None, "missing"),
    ],
)
def test_damaged_records_are_named(copied, change, message):
    (path,) = (copied / "tiny_pictures" / "1.2.0").glob("*train.array_record*")
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        sources.load("tfds:tiny_pictures", "train", folder=str(copied))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_damaged_description_and_other_formats_are_named(copied):
    folder = copied / "tiny_pictures" / "1.2.0"
    (folder / "features.json").write_text("{")
    with pytest.raises(UserError, match=f"{folder}: cannot be read"):
        sources.load("tfds:tiny_pictures", "train", folder=str(copied))
    for path in folder.glob("*array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(UserError, match=f"{folder}: prepared in another format"):
        sources.load("tfds:tiny_pictures", "train", folder=str(copied))


def test_sets_without_classes_are_refused(copied):
    folder = copied / "tiny_pictures" / "1.2.0"
    features = json.loads((folder / "features.json").read_text())
    del features["featuresDict"]["features"]["label"]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="not a set of images with one class each"):
        sources.load("tfds:tiny_pictures", "train", folder=str(copied))


def test_prepare(written, tmp_path, monkeypatch):
    here = tfds_source.find("tiny_pictures", written)
    assert sources.prepare("tfds:tiny_pictures", written) == here
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else 1
    )
    with pytest.raises(UserError, match=r"pip install 'ddae_jax\[prepare\]'"):
        sources.prepare("tfds:tiny_pictures", tmp_path)
    # This set is written without TensorFlow, so preparing it can be tried for real.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: real("json"))
    path = sources.prepare("tfds:tiny_pictures", tmp_path)
    assert path == tmp_path / "tiny_pictures" / "1.2.0"
    assert len(sources.load("tfds:tiny_pictures", "train", folder=str(tmp_path))) == 8
    with pytest.raises(UserError, match="could not be prepared") as error:
        sources.prepare("tfds:no_such_set_here", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("proxy", ["nobody listens", "never answers"])
def test_preparing_without_a_network_is_one_line_before_tfds_tries(
    proxy, monkeypatch, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if proxy == "nobody listens":
            server.close()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        # As if TensorFlow were installed, which is asked for first.
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("it tries"))
        with pytest.raises(
            UserError, match=r"cifar10: .* there is no network"
        ) as error:
            sources.prepare("cifar10", tmp_path)
        assert "\n" not in str(error.value)
        if proxy == "never answers":
            assert re.search(r"no answer in [1-4] s|timed out", str(error.value))


def test_any_answer_is_a_network(monkeypatch):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hosts = ("http://127.0.0.1:1", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(tfds_source, "_HOSTS", hosts)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        tfds_source.check_network("cifar10")
        server.shutdown()
