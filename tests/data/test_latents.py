"""A folder of latents as a data set: what is read, and what is refused."""

import json

import numpy as np
import pytest

from ddae_jax.data import latents, sources
from ddae_jax.data.latents import Encoded
from ddae_jax.errors import UserError

ENCODED = Encoded(
    identity="what it follows from",
    autoencoder="someone's",
    name="toys",
    class_names=("cup", "ball"),
    image_shape=(8, 8, 3),
    shape=(4, 4, 2),
    mirrored=True,
    dtype="float16",
    file_images=4,
    counts={"train": 10, "test": 3},
    scale=(2.0, 0.5),
    shift=(1.0, 0.0),
)


def write(folder, encoded=ENCODED):
    rng = np.random.default_rng(0)
    latents.write(folder, encoded)
    everything = {}
    for split, count in encoded.counts.items():
        labels = (np.arange(count) % 2).astype(np.int32)
        latents.write_array(folder / f"{split}_labels.npy", labels)
        rows = rng.uniform(0.1, 3, (count, *encoded.form.row_shape(encoded.shape)))
        everything[split] = rows.astype(encoded.dtype)
        for start in encoded.starts(split):
            part = everything[split][start : start + encoded.file_images]
            latents.write_array(encoded.path(folder, split, start), part)
    return everything


def load(folder, split="train", **options):
    return sources.load("latents", split, folder=str(folder), **options)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_rows_are_those_written_across_files(tmp_path, resident_bytes):
    written = write(tmp_path)
    for split, rows in written.items():
        source = load(tmp_path, split, resident_bytes=resident_bytes)
        assert (source.images is None) == (resident_bytes == 0)
        assert len(source) == len(rows) and source.image_shape == (4, 4, 2)
        assert source.class_names == ENCODED.class_names and "toys" in source.name
        indices = np.array([len(rows) - 1, 0, 2, 2])
        np.testing.assert_array_equal(source.read_rows(indices), rows[indices])
        np.testing.assert_array_equal(source.labels, np.arange(len(rows)) % 2)
        images = source.read(indices)
        wanted = rows[indices, 0, ..., :2].astype(np.float32)
        wanted = (wanted - np.float32([1, 0])) * np.float32([2, 0.5])
        np.testing.assert_allclose(images, wanted, rtol=1e-6)


def test_what_is_read_is_what_was_written(tmp_path):
    assert latents.read(tmp_path) is None
    write(tmp_path)
    assert latents.read(tmp_path) == ENCODED


def test_statistics_are_those_of_draws(tmp_path):
    rows = write(tmp_path)["train"].astype(np.float64)
    mean, std = latents.statistics(ENCODED, tmp_path)
    means, stds = rows[..., :2], rows[..., 2:]
    np.testing.assert_allclose(mean, means.mean((0, 1, 2, 3)))
    noise = np.random.default_rng(1).normal(size=(500, *means.shape))
    drawn = means + stds * noise
    np.testing.assert_allclose(mean, drawn.mean((0, 1, 2, 3, 4)), atol=0.02)
    np.testing.assert_allclose(std, drawn.std((0, 1, 2, 3, 4)), rtol=0.02)


def test_the_size_and_channels_of_the_images_may_be_told(tmp_path):
    write(tmp_path)
    assert load(tmp_path, image_size=8, channels=3).image_shape == (4, 4, 2)
    for options, message in [
        ({"image_size": 16}, r"config\.data\.image_size: 16, .* images of 8x8"),
        ({"channels": 1}, r"config\.data\.channels: 1, .* images of 3"),
    ]:
        with pytest.raises(UserError, match=message):
            load(tmp_path, **options)


def edit(folder, **changes):
    path = folder / latents.ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


DAMAGE = {
    "no folder of latents": (
        lambda f: (f / latents.ABOUT).unlink(),
        "no latents.json .*--task=encode",
    ),
    "unfinished": (lambda f: edit(f, scale=None), "unfinished; --task=encode again"),
    "not JSON": (lambda f: (f / latents.ABOUT).write_text("{"), "not JSON"),
    "another field": (lambda f: edit(f, more=1), "not what --task=encode writes"),
    "no number": (lambda f: edit(f, file_images="4"), "writes: numbers"),
    "negative count": (lambda f: edit(f, counts={"train": -1}), "writes: numbers"),
    "counts are none": (lambda f: edit(f, counts=3), "not what --task=encode writes"),
    "unknown dtype": (lambda f: edit(f, dtype="object"), "writes: dtype"),
    "two scales of three": (lambda f: edit(f, scale=[1.0] * 3), "scale and shift"),
    "scale of words": (lambda f: edit(f, scale="much"), "not what --task=encode"),
    "truncated": (
        lambda f: truncate(f / "train_00001.npy"),
        "train_00001.npy: not an .npy array",
    ),
    "no array": (
        lambda f: (f / "train_00000.npy").write_bytes(b"x" * 100),
        "train_00000.npy: not an .npy array",
    ),
    "missing": (lambda f: (f / "train_00002.npy").unlink(), "train_00002.npy: missing"),
    "wrong count": (lambda f: edit(f, counts={"train": 9}), r"int32\(10,\), but .*9"),
    "a file of fewer": (
        lambda f: latents.write_array(
            f / "train_00000.npy", np.zeros((3, 2, 4, 4, 4), np.float16)
        ),
        r"float16\(3, 2, 4, 4, 4\), but latents.json says float16\(4, 2, 4, 4, 4\)",
    ),
    "another type": (lambda f: edit(f, dtype="float32"), "float16.* says float32"),
    "labels of other classes": (
        lambda f: latents.write_array(f / "train_labels.npy", np.full(10, 2, np.int32)),
        "labels from 2 to 2 of 2 classes",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_named_in_one_line(tmp_path, what):
    write(tmp_path)
    change, message = DAMAGE[what]
    change(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_the_folder_must_be_told():
    with pytest.raises(UserError, match=r"config\.data\.folder"):
        sources.load("latents", "train")
