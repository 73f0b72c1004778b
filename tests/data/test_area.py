"""config.data.resize: what it does, and that it reaches every data set and task."""

import json

import numpy as np
import pytest
from PIL import Image

from ddae_jax import main
from ddae_jax.data import area, idx, image_files, images, masks, photos, sources
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.settings import command_line
from ddae_jax.settings.data import DataSettings
from ddae_jax.settings.fields import declared
from tests.conftest import ROOT
from tests.tools import data_files, tiny_tfds

RNG = np.random.default_rng(0)


def random_images(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def shares(old, new):
    """[new, old]: the share of an old pixel in the mean of a new one."""
    length = old / new
    return np.array(
        [
            [
                max(min((i + 1) * length, j + 1) - max(i * length, j), 0) / length
                for j in range(old)
            ]
            for i in range(new)
        ]
    )


def mean(pixels, height, width):
    """Not rounded."""
    rows, columns = shares(pixels.shape[-3], height), shares(pixels.shape[-2], width)
    return np.einsum("ij,kl,...jlc->...ikc", rows, columns, pixels.astype(float))


@pytest.mark.parametrize(
    "old, new",
    [
        ((28, 28), (16, 16)),
        ((31, 17), (10, 16)),
        ((9, 5), (9, 5)),
        ((3, 4), (7, 10)),
        ((20, 3), (6, 8)),
        ((5, 9), (1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_mean_over_the_area_of_each_new_pixel(old, new, channels):
    given = random_images(6, *old, channels)
    resized = area.resize(given, *new)
    expected = mean(given, *new)
    assert resized.dtype == np.uint8 and resized.shape == (6, *new, channels)
    assert np.abs(resized - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(area.resize(given[3], *new), resized[3])


def test_half_the_size_is_the_mean_of_blocks_of_four_pixels():
    given = random_images(8, 32, 32, 3)
    blocks = given.reshape(8, 16, 2, 16, 2, 3).astype(float).mean((2, 4))
    expected = np.floor(blocks + 0.5)
    np.testing.assert_array_equal(images.fit(given, 16, "area"), expected)


def test_a_multiple_of_the_size_repeats_pixels_and_one_value_stays():
    given = random_images(2, 3, 4, 1)
    expected = given.repeat(5, 1).repeat(2, 2)
    np.testing.assert_array_equal(area.resize(given, 15, 8), expected)
    for value in (0, 255):
        flat = np.full((1, 28, 21, 3), value, np.uint8)
        assert (area.resize(flat, 16, 37) == value).all()


def test_no_image_gives_no_image():
    for how in images.RESIZES:
        none = images.resize(np.zeros((0, 8, 8, 1), np.uint8), 4, 4, how)
        assert none.shape == (0, 4, 4, 1) and none.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_is_pillows(channels):
    given = random_images(2, 9, 12, channels)
    resized = images.fit(given, 6)
    for image, one in zip(given, resized, strict=True):
        large = Image.fromarray(image.squeeze()).resize(
            (8, 6), Image.Resampling.BICUBIC
        )
        expected = np.asarray(large)[:, 1:7].reshape(one.shape)
        np.testing.assert_array_equal(one, expected)


def test_the_centre_of_what_is_not_square_is_cropped():
    given = random_images(4, 30, 45, 3)
    expected = mean(given, 10, 15)[:, :, 2:12]
    resized = images.fit(given, 10, "area")
    assert np.abs(resized - expected).max() <= 0.5 + 1e-9


def test_small_images_still_get_a_margin():
    given = random_images(2, 5, 8, 1)
    np.testing.assert_array_equal(images.fit(given, 8, "area"), images.fit(given, 8))


WRITERS = {
    "fashion_mnist": data_files.write_fashion_mnist,
    "idx": data_files.write_fashion_mnist,
    "cifar10": lambda folder: data_files.write_cifar(folder, "cifar10"),
    "cifar100": lambda folder: data_files.write_cifar(folder, "cifar100"),
}


@pytest.mark.parametrize("name", ["digits", *WRITERS])
@pytest.mark.parametrize("resident_bytes", [0, 1 << 30])
def test_sets_of_one_size(tmp_path, name, resident_bytes):
    WRITERS.get(name, lambda folder: None)(tmp_path)

    def load(**options):
        source = sources.load(
            name, "test", folder=tmp_path, resident_bytes=resident_bytes, **options
        )
        return source.read(np.arange(len(source)))

    small = load(image_size=5, resize="area")
    assert np.abs(small - mean(load(), 5, 5)).max() <= 0.5 + 1e-9
    assert (small != load(image_size=5)).any()
    bicubic = load(image_size=5, resize="bicubic")
    np.testing.assert_array_equal(bicubic, load(image_size=5))


@pytest.mark.parametrize("size", [10, 50])
def test_folders_of_images(tmp_path, size):
    data_files.write_image_folder(tmp_path)  # 40 wide, 33 high
    options = {"folder": tmp_path, "channels": 3}
    source = sources.load(
        "image_folder", "train", image_size=size, resize="area", **options
    )
    given = sources.load("image_folder", "train", **options).images
    width = round(40 * size / 33)
    left = (width - size) // 2
    expected = mean(given, size, width)[:, :, left : left + size]
    assert np.abs(source.images - expected).max() <= 0.5 + 1e-9


def test_tiny_imagenet(tmp_path):
    data_files.write_tiny_imagenet(tmp_path, 2, 3)
    given = sources.load("tiny_imagenet", "train", folder=tmp_path).images
    source = sources.load(
        "tiny_imagenet", "train", folder=tmp_path, image_size=24, resize="area"
    )
    assert np.abs(source.images - mean(given, 24, 24)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", ["tiny_pictures", "tiny_widths"])
def test_tfds(tmp_path, monkeypatch, name):
    folder = str(tiny_tfds.write(tmp_path))

    def marked(given, height, width):
        return np.full(
            (*given.shape[:-3], height, width, given.shape[-1]), 99, np.uint8
        )

    monkeypatch.setattr(area, "resize", marked)
    options = {"folder": folder, "image_size": 3}
    source = sources.load(f"tfds:{name}", "train", resize="area", **options)
    assert (source.images == 99).all()
    assert (sources.load(f"tfds:{name}", "train", **options).images != 99).any()


def without_resize(split, *, folder, image_size, channels, resident_bytes):
    return sources.load("digits", split, image_size=image_size, channels=channels)


def with_any_option(split, *, folder, **options):
    return sources.load("digits", split, **options)


def test_sources_from_outside_need_not_take_it(monkeypatch):
    for name, load_split in (("old", without_resize), ("new", with_any_option)):
        monkeypatch.setitem(sources.SOURCES, name, sources.DataSet(load_split))
        expected = sources.load("digits", "test", image_size=5).images
        np.testing.assert_array_equal(
            sources.load(name, "test", image_size=5).images, expected
        )
    with pytest.raises(UserError, match=r"config\.data\.resize: old was registered"):
        sources.load("old", "test", image_size=5, resize="area")
    given = sources.load("new", "test", image_size=5, resize="area").images
    expected = sources.load("digits", "test", image_size=5, resize="area").images
    np.testing.assert_array_equal(given, expected)


def test_the_setting_has_the_ways_that_there_are():
    _, default, bounds = declared(DataSettings)["resize"]
    assert default == images.BICUBIC and bounds.choices == images.RESIZES
    with pytest.raises(UserError, match="resize is 'box', known: bicubic, area"):
        sources.load("digits", "test", resize="box")


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("size", [16, 50])
def test_images_of_the_users_own(tmp_path, enlarge, size):
    pixels = data_files.save_image(tmp_path / "images" / "a.png", (28, 28))
    path, shape = tmp_path / "images" / "a.png", (size, size, 3)
    read = image_files.read(path, shape, enlarge, "area")
    if size > 28 and not enlarge:
        np.testing.assert_array_equal(read, image_files.read(path, shape, enlarge))
    else:
        assert np.abs(read - mean(pixels, size, size)).max() <= 0.5 + 1e-9
    source = image_files.source("images", [path], shape, enlarge, resize="area")
    np.testing.assert_array_equal(source.read([0])[0], read)
    photo = photos.read(path, 3, photos.Size((size, size), 1, enlarge, "area"), 99)
    np.testing.assert_array_equal(photo.pixels, read)

    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    folders = (str(tmp_path / "images"), str(tmp_path))
    masked = masks.load(*folders, ("images", "masks"), shape, enlarge, 0, "area")
    np.testing.assert_array_equal(masked.images.read([0])[0], read)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir of a run on Fashion-MNIST's format at 16x16, folder of the files)."""
    folder, workdir = (tmp_path_factory.mktemp(name) for name in ("data", "run"))
    data_files.write_fashion_mnist(folder)
    main.run(
        [
            "main",
            f"--config={ROOT / 'configs' / 'fashion_mnist.py'}:test",
            f"--workdir={workdir}",
            f"--config.data.folder={folder}",
            "--config.data.image_size=16",
            "--config.data.resize=area",
            "--config.train.steps=1",
            "--config.network.channels=32",
            "--config.network.channel_multipliers=(1,)",
            "--config.network.attention=(False,)",
            "--config.train.batch_size=16",
            "--config.train.sample_every=0",
        ]
    )
    return workdir, folder


def opened(workdir, *words):
    words = ["main", f"--workdir={workdir}", *words]
    settings = command_line.parse(words, main.define_flags).settings
    return settings, Experiment(settings, workdir)


@pytest.mark.slow
def test_the_command_line_trains_on_it_and_later_tasks_keep_it(trained, caplog):
    workdir, folder = trained
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["data"]["resize"] == "area"
    settings, experiment = opened(workdir, "--config.data.resize=bicubic")
    said = "was trained with data.resize='area': that is used, not 'bicubic'"
    assert settings.data.resize == "area" and said in caplog.text
    given = idx.read(folder / "t10k-images-idx3-ubyte")[..., None]
    source = experiment.source("test")
    assert experiment.image_shape == source.image_shape == (16, 16, 1)
    assert np.abs(source.images - mean(given, 16, 16)).max() <= 0.5 + 1e-9


@pytest.mark.slow
def test_a_workdir_without_the_field_is_bicubic(trained, caplog):
    workdir, _ = trained
    path = workdir / "config.json"
    before = path.read_text()
    saved = json.loads(before)
    del saved["data"]["resize"]
    path.write_text(json.dumps(saved))
    try:
        assert opened(workdir)[0].data.resize == "bicubic"
        settings, _ = opened(workdir, "--config.data.resize=area")
    finally:
        path.write_text(before)
    assert settings.data.resize == "bicubic"
    assert "was trained with data.resize='bicubic': that is used" in caplog.text
