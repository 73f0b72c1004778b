"""Features on disk: written by blocks, continued, and never used where damaged."""

import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.features import cache as feature_cache
from ddae_jax.features import encode as features
from ddae_jax.features import files as feature_files
from ddae_jax.features.cache import FeatureCache
from ddae_jax.runtime import parallel

COUNT = 50


def rows(start, stop, width=3):
    return np.arange(start * width, stop * width, dtype=np.float32).reshape(-1, width)


def write(folder, names=("a", "b"), stop=COUNT, start=0):
    """Writes rows up to `stop` in blocks of at most 20, as an extraction does."""
    writer = feature_files.Writer(folder, COUNT, start)
    for first in range(start, stop, 10):
        last = min(first + 10, stop)
        writer.append({name: rows(first, last) for name in names})
        if writer.uncommitted >= 20:
            writer.commit()
    return writer


def test_what_was_written_is_read_and_what_was_not_committed_is_not(tmp_path):
    writer = write(tmp_path, stop=30)
    writer.close()  # as the process dies: rows 20 to 30 are on disk, and do not count
    assert feature_files.intact(tmp_path, "a", COUNT) == [0, 20]
    assert feature_files.intact(tmp_path, "c", COUNT) == [0]
    assert not (tmp_path / "a.npy").exists()
    write(tmp_path, start=20).finish()
    for name in "ab":
        assert feature_files.intact(tmp_path, name, COUNT) == [0, 20, 40, 50]
        found = feature_files.read(tmp_path, name)
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, rows(0, COUNT))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "damage, left",
    [
        (lambda data: data[:-1], [0, 20, 40]),
        (lambda data: data[: 128 + 25 * 12], [0, 20]),
        (lambda data: data[:100], [0]),
        (lambda data: b"", [0]),
        (lambda data: data[:200] + b"\xff" + data[201:], [0]),
        (lambda data: data.replace(b"(50, 3)", b"(51, 3)"), [0]),
        (lambda data: data[:-4] + b"\0\0\0\1", [0, 20, 40]),
    ],
)
def test_a_damaged_array_keeps_what_is_sound_and_is_redone(tmp_path, damage, left):
    write(tmp_path).finish()
    path = tmp_path / "a.npy"
    path.write_bytes(damage(path.read_bytes()))
    assert feature_files.intact(tmp_path, "a", COUNT) == left
    assert not path.exists()
    assert feature_files.intact(tmp_path, "a", COUNT) == left
    write(tmp_path, names=("a",), start=left[-1]).finish()
    np.testing.assert_array_equal(feature_files.read(tmp_path, "a"), rows(0, COUNT))
    assert feature_files.intact(tmp_path, "b", COUNT)[-1] == COUNT


def test_without_its_record_an_array_is_not_trusted(tmp_path):
    write(tmp_path).finish()
    (tmp_path / "progress.json").write_text('{"a": [[2')
    assert feature_files.intact(tmp_path, "a", COUNT) == [0]


def test_an_array_that_only_lacks_its_name_gets_it(tmp_path):
    writer = write(tmp_path)
    writer.commit()
    writer.close()
    assert not (tmp_path / "a.npy").exists()
    assert feature_files.intact(tmp_path, "a", COUNT)[-1] == COUNT
    assert (tmp_path / "a.npy").exists()


def hold(folder, entered):
    with feature_files.lock(folder):
        entered.set()
        time.sleep(0.5)


def test_two_processes_do_not_write_at_once(tmp_path):
    # The lock is the open file's, so that a thread stands for a process.
    entered = threading.Event()
    other = threading.Thread(target=hold, args=(tmp_path / "new", entered))
    other.start()
    assert entered.wait(20)
    started = time.monotonic()
    with feature_files.lock(tmp_path / "new"):
        assert time.monotonic() - started > 0.2
    other.join()


class Network:
    """Encoders of a fake network that count what they are asked for."""

    def __init__(self):
        self.calls = []

    def encoder(self, taps):
        def encode(params, x0, noise, time):
            flat = (x0 + noise * time).reshape(len(x0), -1)
            return {tap: flat * params["scale"] + float(tap[-1]) for tap in taps}

        self.calls.append(taps)
        return encode


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """(options of `encode_set`, the source, what it should give)."""
    monkeypatch.setattr(feature_cache, "BLOCK", 8)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (22, 2, 2, 1), dtype=np.uint8)
    source = data_source.from_arrays(
        "odd/name", "train", images, np.arange(22) % 2, "ab"
    )
    network = Network()
    options = {
        "cache": FeatureCache(tmp_path / "features", "hash of the weights", 12),
        "encoder_of": network.encoder,
        "taps": ("out_1", "out_2"),
        "params": {"scale": jnp.float32(2)},
        "mesh": parallel.make_mesh(),
        "source": source,
        "times": (1.0, 0.5),
        "key": jax.random.key(3),
        "batch_size": 4,
        "label": "seed0_draw0",
    }
    others = ("params", "mesh", "source", "times", "key", "batch_size")
    encode = Network().encoder(("out_1", "out_2"))
    expected = features.encode_set(encode, *(options[name] for name in others))
    return options, network, expected


def check(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        for tap in ours:
            np.testing.assert_allclose(ours[tap], theirs[tap], atol=1e-6)


def test_features_are_extracted_once_and_only_what_is_missing(setting):
    options, network, expected = setting
    check(feature_cache.encode_set(**options), expected)
    assert network.calls == [("out_1", "out_2")] * 2
    (folder,) = options["cache"].folder.iterdir()
    assert folder.name.startswith("step00000012_odd-name_train_22_seed0_draw0_")
    assert json.loads((folder / "about.json").read_text())["count"] == 22
    check(feature_cache.encode_set(**options), expected)
    assert len(network.calls) == 2  # nothing was computed
    # Another time and tap: one pass at each time, for what it lacks.
    more = feature_cache.encode_set(
        **{**options, "taps": ("out_1", "out_2", "out_3"), "times": (1.0, 0.25)}
    )
    assert network.calls[2:] == [("out_3",), ("out_1", "out_2", "out_3")]
    np.testing.assert_allclose(more[0]["out_1"], expected[0]["out_1"], atol=1e-6)
    assert list(more[0]) == ["out_1", "out_2", "out_3"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("key", jax.random.key(4)),
        ("label", "seed0_draw1"),
        ("cache", "other weights"),
        ("source", "subset"),
        ("source", "labels"),
    ],
)
def test_what_makes_other_features_has_another_folder(setting, name, value):
    options, network, _ = setting
    feature_cache.encode_set(**options)
    cache, source = options["cache"], options["source"]
    changed = {
        "other weights": FeatureCache(cache.folder, "other weights", 12),
        "subset": data_source.subset(source, np.arange(22)[::-1]),
        "labels": data_source.from_arrays(
            source.name, source.split, source.images, 1 - source.labels, "ab"
        ),
    }
    if isinstance(value, str):
        value = changed.get(value, value)
    feature_cache.encode_set(**{**options, name: value})
    assert len(network.calls) == 4
    assert len(list(cache.folder.iterdir())) == 2


def test_an_interrupted_extraction_continues_behind_its_last_block(
    setting, monkeypatch, caplog
):
    options, network, expected = setting
    real = features.encode_batches

    def interrupted(*args):
        for number, batch in enumerate(real(*args)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(feature_cache, "encode_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feature_cache.encode_set(**options)
    starts = []

    def counted(*args):
        starts.append(args[-1])
        yield from real(*args)

    monkeypatch.setattr(feature_cache, "encode_batches", counted)
    check(feature_cache.encode_set(**options), expected)
    assert starts == [8]  # 12 rows were written, a block has 8
    # A damaged array is computed again, from its first damaged block on.
    (path,) = options["cache"].folder.glob("*/out_2_time0.5.npy")
    path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level("WARNING"):
        check(feature_cache.encode_set(**options), expected)
    assert "damaged behind row 16" in caplog.text
    assert starts == [8, 16] and network.calls[-1] == ("out_2",)


def test_models_differ_by_weights_and_description():
    def identity(scale, encoder="Encoder(network, taps=('out_1',))"):
        class Described:
            def __call__(self, params, x0, noise, time):
                return {}

            def __repr__(self):
                return encoder

        return feature_cache.model_identity(Described(), {"scale": jnp.float32(scale)})

    assert identity(1) == identity(1) != identity(2)
    assert identity(1) == identity(1, "Encoder(network, taps=('a', 'b'))")
    assert identity(1) != identity(1, "Encoder(other, taps=('out_1',))")


def test_images_that_stream_are_known_by_some_of_them():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 2, 2, 1), dtype=np.uint8)
    make = data_source.from_arrays
    options = {"name": "a", "split": "train", "labels": [0] * 9, "class_names": "a"}
    streamed = make(images=images, resident_bytes=0, **options)
    changed = make(images=images[::-1], resident_bytes=0, **options)
    identity = feature_cache.data_identity
    assert identity(streamed) == identity(streamed) != identity(changed)
