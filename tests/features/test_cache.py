"""Features on disk: written by chunks, continued, and never used where damaged."""

import dataclasses
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from ddae_jax.data import identity as data_identity
from ddae_jax.data import source as data_source
from ddae_jax.features import cache as feature_cache
from ddae_jax.features import encode as features
from ddae_jax.features.cache import FeatureCache
from ddae_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class Fake:
    """An encoder whose features tell image, noise, time and tap apart."""

    names: tuple[str, ...]
    offset: float = 0.0

    def select(self, names):
        return dataclasses.replace(self, names=names)

    def noise_shape(self, image_shape):
        return tuple(image_shape)

    def __call__(self, params, x0, noise, time):
        flat = rearrange(x0 + noise * time, "b ... -> b (...)") + self.offset
        return {name: flat * params["scale"] + float(name[-1]) for name in self.names}


@pytest.fixture
def passes(monkeypatch):
    """(first image, names at each time) of each extraction that is really made."""
    real, made = features.encode_batches, []

    def noted(encoders, *arguments):
        made.append((arguments[-1], [encode.names for encode, _ in encoders]))
        return real(encoders, *arguments)

    monkeypatch.setattr(feature_cache, "encode_batches", noted)
    monkeypatch.setattr(feature_cache, "CHUNK", 8)
    return made


@pytest.fixture
def options(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (22, 2, 2, 1), dtype=np.uint8)
    return {
        "cache": FeatureCache(tmp_path / "features", "hash of the weights", "step12"),
        "encode": Fake(("out_1", "out_2")),
        "params": {"scale": jnp.float32(2)},
        "mesh": parallel.make_mesh(),
        "source": data_source.from_arrays(
            "odd/name", "train", images, np.arange(22) % 2, "ab"
        ),
        "times": (1.0, 0.5),
        "key": jax.random.key(3),
        "batch_size": 4,
        "label": "seed0_draw0",
    }


def check(found, options):
    """That `found` is what comes without a cache."""
    others = {k: v for k, v in options.items() if k not in ("cache", "label")}
    expected = features.encode_set(**others)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        for name in ours:
            np.testing.assert_array_equal(np.asarray(ours[name]), theirs[name])


def test_features_are_extracted_once_and_only_what_is_missing(options, passes):
    check(feature_cache.encode_set(**options), options)
    both = ("out_1", "out_2")
    assert passes == [(0, [both, both])]
    (folder,) = options["cache"].folder.iterdir()
    assert folder.name.startswith("step12_odd-name_train_22_seed0_draw0_")
    assert json.loads((folder / "about.json").read_text())["count"] == 22
    check(feature_cache.encode_set(**options), options)
    assert len(passes) == 1  # nothing was computed
    # Another time and tap: one pass at each time, for what it lacks.
    three = (*both, "out_3")
    more = {**options, "encode": Fake(three), "times": (1.0, 0.25)}
    check(feature_cache.encode_set(**more), more)
    assert passes[1:] == [(0, [("out_3",), three])]


@pytest.mark.parametrize(
    "name", ["key", "label", "weights", "order of images", "labels"]
)
def test_what_makes_other_features_has_another_folder(options, passes, name):
    feature_cache.encode_set(**options)
    cache, source = options["cache"], options["source"]
    turned = data_source.subset(source, np.arange(22)[::-1])
    relabelled = dataclasses.replace(source, labels=1 - source.labels)
    changed = {
        "key": {"key": jax.random.key(4)},
        "label": {"label": "seed0_draw1"},
        "weights": {"cache": dataclasses.replace(cache, model="other weights")},
        "order of images": {"source": turned},
        "labels": {"source": relabelled},
    }[name]
    check(feature_cache.encode_set(**{**options, **changed}), options | changed)
    assert len(passes) == 2
    assert len(list(cache.folder.iterdir())) == 2


def test_an_interrupted_extraction_continues_after_its_last_whole_chunk(
    options, passes, monkeypatch
):
    noted = feature_cache.encode_batches

    def interrupted(*arguments):
        for number, batch in enumerate(noted(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "encode_batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            feature_cache.encode_set(**options)
    check(feature_cache.encode_set(**options), options)
    assert [first for first, _ in passes] == [0, 8]  # 12 rows came, a chunk has 8


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (lambda array: flip(array / "c" / "1" / "0"), 8),
        (lambda array: cut(array / "c" / "2" / "0"), 16),
        (lambda array: [flip(array / "c" / f"{n}" / "0") for n in (1, 2)], 8),
        (lambda array: (array / "c" / "0" / "0").unlink(), 0),
        (lambda array: (array / "zarr.json").write_text("{"), 0),
    ],
)
def test_a_damaged_array_is_redone_from_there(options, passes, damage, first):
    feature_cache.encode_set(**options)
    (array,) = options["cache"].folder.glob("*/out_2_time0.5")
    damage(array)
    check(feature_cache.encode_set(**options), options)
    assert passes[1:] == [(first, [("out_2",)])]
    check(feature_cache.encode_set(**options), options)
    assert len(passes) == 2


def flip(path):
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def hold(folder, entered):
    with feature_cache.lock(folder):
        entered.set()
        time.sleep(0.5)


def test_two_processes_do_not_write_at_once(tmp_path):
    # The lock is the open file's, so that a thread stands for a process.
    entered = threading.Event()
    other = threading.Thread(target=hold, args=(tmp_path / "new", entered))
    other.start()
    assert entered.wait(20)
    started = time.monotonic()
    with feature_cache.lock(tmp_path / "new"):
        assert time.monotonic() - started > 0.2
    other.join()


def test_models_differ_by_weights_and_description():
    def identity(scale, encode=Fake(("out_1",))):
        return feature_cache.model_identity(encode, {"scale": jnp.float32(scale)})

    assert identity(1) == identity(1) != identity(2)
    assert identity(1) == identity(1, Fake(("a", "b")))
    assert identity(1) != identity(1, Fake(("out_1",), offset=1.0))


def test_images_that_stream_are_known_by_some_of_them():
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 1), dtype=np.uint8)
    options = {"name": "a", "split": "train", "labels": [0] * 9, "class_names": "a"}

    def identity(images, resident_bytes=0):
        source = data_source.from_arrays(
            images=images, resident_bytes=resident_bytes, **options
        )
        return data_identity.of_source(source)

    assert identity(images) == identity(images) != identity(images[::-1])
    assert identity(images) == identity(images, resident_bytes=1 << 20)
