"""The data set `arrays`: .npy files in a folder, and what cannot be read of them."""

import json

import numpy as np
import pytest

from ddae_jax.data import arrays, sources
from ddae_jax.errors import UserError
from tests.tools import data_files


def load(folder, **options):
    return sources.load("arrays", "train", folder=str(folder), **options)


def test_labels_and_names_are_there_or_counted(tmp_path):
    data_files.write_arrays(tmp_path)
    assert load(tmp_path).class_names == ("cat", "dog")
    (tmp_path / arrays.ABOUT).unlink()
    assert load(tmp_path).class_names == ("0", "1")
    (tmp_path / "train_labels.npy").unlink()
    source = load(tmp_path)
    assert source.class_names == ("0",) and not source.labels.any()


def test_large_sets_stay_on_the_disk(tmp_path):
    data_files.write_arrays(tmp_path)
    source = load(tmp_path, resident_bytes=0)
    assert source.images is None
    stored = np.load(tmp_path / "train_images.npy")
    np.testing.assert_array_equal(source.read([3, 1]), stored[[3, 1]])


IMAGES = np.zeros((6, 9, 7, 3), np.uint8)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train_images", IMAGES / 1.0, "train_images.npy: type float64"),
        ("train_images", IMAGES[..., 0], r"train_images.npy: shape \(6, 9, 7\)"),
        ("train_images", None, "train_images.npy: there is no such file"),
        ("train_labels", np.zeros(5, int), r"train_labels.npy: shape \(5,\) for 6"),
        ("train_labels", np.zeros(6), "train_labels.npy: labels are integers"),
        ("train_labels", np.arange(6) - 1, "train_labels.npy: labels are integers"),
        ("train_labels", np.arange(6), "label 5, but arrays.json has 2 names"),
    ],
)
def test_what_is_no_set_is_one_line(tmp_path, name, content, message):
    data_files.write_arrays(tmp_path)
    path = tmp_path / f"{name}.npy"
    path.unlink() if content is None else np.save(path, content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_names_that_are_none_are_named(tmp_path):
    data_files.write_arrays(tmp_path)
    (tmp_path / arrays.ABOUT).write_text(json.dumps({"class_names": "cat"}))
    with pytest.raises(UserError, match=r"arrays.json: class_names is no list"):
        load(tmp_path)
    with pytest.raises(UserError, match="name the folder"):
        sources.load("arrays", "train")
