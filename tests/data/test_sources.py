"""Names, digits, residence in memory, subsets and held-out parts."""

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import image_files, source, sources
from ddae_jax.data import images as image_ops
from ddae_jax.errors import UserError


def counted(count=40, classes=4, resident_bytes=source.RESIDENT_BYTES):
    """A source whose image i is filled with i."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (count, 2, 2, 1))
    return source.from_arrays(
        "counted",
        "train",
        images,
        np.arange(count) % classes,
        [str(name) for name in range(classes)],
        resident_bytes=resident_bytes,
    )


def test_digits_split_is_fixed_and_complete():
    train, test = (sources.load("digits", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1297, 500)
    assert train.image_shape == (8, 8, 1)
    assert train.images.dtype == np.uint8 and train.images.max() == 255
    assert train.labels[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]
    everything = np.concatenate([train.images, test.images]).reshape(1797, -1)
    assert everything.sum() == pytest.approx(561718 * 255 / 16, abs=1797 * 64)
    assert train.class_names == tuple("0123456789")


def test_digits_padded_and_converted():
    plain = sources.load("digits", "test")
    padded = sources.load("digits", "test", image_size=12, channels=3)
    assert padded.image_shape == (12, 12, 3)
    np.testing.assert_array_equal(
        padded.images[:, 2:10, 2:10], plain.images.repeat(3, -1)
    )
    assert padded.images.sum() == 3 * plain.images.sum(dtype=np.int64)


@pytest.mark.parametrize(
    ("name", "split", "options", "message"),
    [
        ("cifar11", "train", {}, "nearest: cifar10"),
        ("cifar11", "train", {}, "known: digits, fashion_mnist, idx"),
        ("digits", "valid", {}, "no split 'valid', known: train, test"),
        ("digits", "train", {"channels": 2}, "channels is 2, known: 1"),
        ("digits", "train", {"image_size": 0}, "image_size is 0"),
        ("cifar10", "train", {"folder": "/no/such"}, "/no/such does not exist"),
        ("idx", "train", {}, "set the folder"),
        ("image_folder", "train", {}, "set the folder"),
        ("tiny_imagenet", "train", {}, "cs231n.stanford.edu"),
    ],
)
def test_errors_are_one_line(name, split, options, message):
    with pytest.raises(UserError) as error:
        sources.load(name, split, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python"),
        ("tfds:svhn_cropped", "svhn_cropped/VERSION"),
        ("fashion_mnist", "apt-get install dataset-fashion-mnist"),
        ("tiny_imagenet", "tiny-imagenet-200"),
        ("idx", "train-images-idx3-ubyte"),
    ],
)
@pytest.mark.parametrize("with_folder", [False, True])
def test_absent_data_is_an_error_at_once(
    name, hint, with_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sources, "FASHION_MNIST_FOLDER", str(tmp_path / "none"))
    with pytest.raises(UserError, match=hint.replace("(", r"\(")) as error:
        sources.load(name, "train", folder=str(tmp_path) if with_folder else None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("resident_bytes", [10, 10_000])
def test_subset(resident_bytes):
    part = source.subset(counted(resident_bytes=resident_bytes), [5, 2, 7])
    assert len(part) == 3
    assert part.labels.tolist() == [1, 2, 3]
    assert part.read([2, 0])[:, 0, 0, 0].tolist() == [7, 5]
    deeper = source.subset(part, [1])
    assert deeper.read([0])[0, 0, 0, 0] == 2


@pytest.mark.parametrize("resident_bytes", [10, 10_000])
def test_held_out_is_stratified_disjoint_and_deterministic(resident_bytes):
    whole = counted(resident_bytes=resident_bytes)
    rest, held = source.held_out(whole, 0.2, seed=1)
    assert np.bincount(held.labels).tolist() == [2, 2, 2, 2]
    shown = [part.read(np.arange(len(part)))[:, 0, 0, 0] for part in (rest, held)]
    assert sorted(np.concatenate(shown).tolist()) == list(range(40))
    again = source.held_out(whole, 0.2, seed=1)[1]
    np.testing.assert_array_equal(again.read(np.arange(8)), held.read(np.arange(8)))
    other = source.held_out(whole, 0.2, seed=2)[1]
    assert (other.read(np.arange(8)) != held.read(np.arange(8))).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 1e-6])
def test_held_out_refuses(fraction):
    with pytest.raises(UserError, match="held-out fraction is"):
        source.held_out(counted(), fraction, seed=0)


def test_fit_resizes_larger_images_and_crops_the_centre():
    images = np.zeros((2, 8, 16, 3), np.uint8)
    images[:, :, 2:14] = 200
    assert (image_ops.fit(images, 4)[:, :, 1:3] == 200).all()
    assert image_ops.fit(images[..., :1], 4).shape == (2, 4, 4, 1)
    odd = image_ops.fit(np.ones((1, 3, 4, 1), np.uint8), 6)[0, :, :, 0]
    assert odd.sum() == 12 and odd[1:4, 1:5].all()


def test_grey_is_luma_as_pillow_computes_it():
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(images[0]).convert("L"))
    np.testing.assert_array_equal(
        image_ops.convert_channels(images, 1)[0, :, :, 0], expected
    )


def test_prepare_refuses_what_does_not_come_from_tfds():
    with pytest.raises(UserError, match="nothing to prepare"):
        sources.prepare("digits")
    with pytest.raises(UserError, match="unknown data set 'digit'"):
        sources.prepare("digit")


def test_a_registered_set_can_say_that_it_enlarges():
    def load_split(split, **options):
        return counted()

    try:
        sources.register_source("mine", load_split, enlarges=True)
        sources.register_source("mine", load_split, enlarges=True)
        assert image_files.enlarges("mine") and not image_files.enlarges("digits")
        with pytest.raises(UserError, match="a data set 'mine' already"):
            sources.register_source("mine", load_split)
    finally:
        del sources.SOURCES["mine"]
    assert not image_files.enlarges("tfds:mine")
