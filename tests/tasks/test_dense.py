"""The task dense on a small network: its parts, and what it refuses."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ddae_jax import main
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.report import pictures
from ddae_jax.runtime import memory
from ddae_jax.settings import schema
from ddae_jax.tasks import dense
from ddae_jax.tasks.dense import segmentation as dense_segmentation
from tests.tools import dense as dense_tools
from tests.tools.experiments import experiment_of


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    dense_tools.write_checkpoint(folder)
    return folder


def run(config, workdir):
    dense.run(experiment_of(config, workdir))
    return json.loads((workdir / "dense.json").read_text())


@pytest.mark.slow
def test_maps_and_neighbours_from_the_command_line(tmp_path, pretrained_copy):
    workdir, pictures = pretrained_copy, tmp_path / "pictures"
    rng = np.random.default_rng(0)
    dense_tools.save(pictures / "a.png", rng.integers(0, 256, (20, 30, 3)))
    dense_tools.save(pictures / "deep" / "b.bmp", rng.integers(0, 256, (8, 8)))
    main.main(
        [
            "main",
            f"--workdir={workdir}",
            "--task=dense,report",
            f"--config.dense.images={pictures}",
            "--config.dense.queries=40",
            "--config.dense.train_count=0",
        ]
    )
    found = json.loads((workdir / "dense.json").read_text())
    assert found["step"] == 4 and found["noise_level"] == pytest.approx(0.05, rel=0.1)
    assert set(found["maps"]) == {"out_1", "out_2"}
    for shares in found["maps"].values():
        assert all(0 < share < 1 for share in shares.values())
    retrieval = found["retrieval"]
    # Even random features find a digit's like among 1,297 images.
    assert retrieval["precision_at_k"] > 4 * retrieval["precision_by_chance"] > 0.3
    for name in ("dense.png", "dense+2.png"):
        with Image.open(workdir / name) as picture:
            assert picture.format == "PNG"
    text = (workdir / "dense.txt").read_text()
    # The photo at twice the network's 8 pixels is 16x24: 5x9 windows. The square is as
    # small as the network's input, which the digits do not enlarge.
    assert "maps: windows: 46" in text
    assert "maps: images: 2" in text and "40 test images of digits" in text
    assert "Positions and neighbours" in (workdir / "report.html").read_text()


def shown_maps(monkeypatch, config, workdir):
    """Images and columns of the picture of maps."""
    seen = []

    def maps(images, names, columns):
        seen.append((images, columns))
        return Figure()

    monkeypatch.setattr(pictures, "maps", maps)
    run(config, workdir)
    ((images, columns),) = seen
    return images, columns


def maps_config(images, **fields):
    config = dense_tools.make_config()
    config.dense.parts, config.dense.taps = ("maps",), ("out_1",)
    config.dense.images, config.dense.noise_level = str(images), 0.05
    for name, value in fields.items():
        config.dense[name] = value
    return config


@pytest.mark.slow
def test_photos_keep_their_aspect_and_get_finer_maps(workdir, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    dense_tools.save(tmp_path / "a.png", rng.integers(0, 256, (300, 451, 3)))
    dense_tools.save(tmp_path / "b.png", rng.integers(0, 256, (1800, 900)))
    for scale in (1, 3):
        config = maps_config(tmp_path, scale=scale)
        images, columns = shown_maps(monkeypatch, config, workdir)
        assert [image.shape for image in images] == [(300, 451, 3), (600, 300, 3)]
        for title, maps in columns:
            assert f"≤{16 * scale}x{8 * scale}" in title
            found = [one.shape for one in maps]
            wide = round(8 * scale * 451 / 300)
            assert found == [(8 * scale, wide, 3), (16 * scale, 8 * scale, 3)]


def test_squares_at_scale_1_are_mapped_as_a_set_is(workdir, tmp_path, monkeypatch):
    squares = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    for number, square in enumerate(squares):
        dense_tools.save(tmp_path / f"{number}.png", square[..., 0])
    _, of_files = shown_maps(monkeypatch, maps_config(tmp_path, scale=1), workdir)
    test = data_source.from_arrays("x", "test", squares, [0, 0, 0], ("",))
    config = maps_config("")
    monkeypatch.setattr(Experiment, "source", lambda self, split: test)
    images, of_set = shown_maps(monkeypatch, config, workdir)
    np.testing.assert_array_equal(images, squares)
    for (title, found), (same, expected) in zip(of_files, of_set, strict=True):
        assert title == same
        np.testing.assert_array_equal(found, expected)


def test_a_strip_that_needs_more_memory_than_there_is_is_one_line(
    workdir, tmp_path, monkeypatch
):
    dense_tools.save(tmp_path / "strip.png", np.zeros((1, 5000)))
    monkeypatch.setattr(memory, "available", lambda: 10**8)
    with pytest.raises(
        UserError, match=r"dense\.scale: 2 times the network.s side needs about"
    ) as raised:
        dense.run(experiment_of(maps_config(tmp_path), workdir))
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brightness")
    dense_tools.write_task(folder / "train", 60, 0)
    dense_tools.write_task(folder / "test", 21, 1)
    dense_tools.write_task(folder / "scrambled", 60, 0, swap=True)
    return folder


@pytest.mark.slow
def test_segmentation_finds_what_the_features_hold(workdir, brightness):
    config = dense_tools.segmentation_config(brightness / "train", brightness / "test")
    found = run(config, workdir)["segmentation"]
    chosen = found["chosen"]
    assert found["classes"] == len(chosen["iou"]) == 3
    assert chosen["mean_iou"] > 0.8 and chosen["pixel_accuracy"] > 0.9
    assert chosen["mean_iou"] == pytest.approx(np.mean(chosen["iou"]))
    by_held_out = {
        tap: scores["held_out_mean_iou"] for tap, scores in found["taps"].items()
    }
    assert by_held_out[chosen["tap"]] == max(by_held_out.values())
    with Image.open(workdir / "dense.png") as picture:
        assert picture.format == "PNG"
    # Where noise hides the brightness, or training masks have nothing to do with it,
    # nothing can be found.
    config.dense.noise_level = 50.0
    assert run(config, workdir)["segmentation"]["chosen"]["mean_iou"] < 0.35
    scrambled = dense_tools.segmentation_config(
        brightness / "scrambled", brightness / "test"
    )
    assert run(scrambled, workdir)["segmentation"]["chosen"]["mean_iou"] < 0.45


@pytest.mark.slow
def test_segmentation_does_not_depend_on_where_images_are_read_from(
    workdir, brightness
):
    config = dense_tools.segmentation_config(brightness / "train", brightness / "test")
    config.dense.epochs = 2
    resident = run(config, workdir)["segmentation"]
    config.data.resident_bytes = 0
    streamed = run(config, workdir)["segmentation"]
    assert streamed["taps"] == resident["taps"]


def change(folder, name, pixels):
    dense_tools.save(folder / "masks" / name, pixels)


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda f: change(f, "1.png", np.zeros((8, 9))), r"1\.png: 8x9 pixels, its im"),
        (lambda f: (f / "masks" / "2.png").unlink(), r"train_masks: no mask .*2\.png"),
        (
            lambda f: [change(f, f"{i}.png", np.ones((8, 8))) for i in range(4)],
            r"train_masks: they hold class 1 alone",
        ),
        (
            lambda f: change(f, "1.png", np.zeros((8, 8, 3))),
            r"1\.png: colour mode RGB; a mask holds class indices",
        ),
        (
            lambda f: [path.unlink() for path in (f / "images").iterdir()],
            r"train_images: no images in .*, it is empty",
        ),
        (
            lambda f: (f / "images" / "0.png").write_text("no"),
            r"0\.png: not a readable image",
        ),
        (
            lambda f: (f / "masks" / "0.png").write_text("no"),
            r"0\.png: not a readable mask",
        ),
        (
            lambda f: dense_tools.save(f / "images" / "0.bmp", np.zeros((8, 8))),
            r"0\.png: has the same mask as .*0\.bmp",
        ),
    ],
)
def test_folders_that_do_not_fit_are_one_line(
    workdir, brightness, tmp_path, fault, message
):
    dense_tools.write_task(tmp_path, 4, 0)
    fault(tmp_path)
    config = dense_tools.segmentation_config(tmp_path, brightness / "test")
    with pytest.raises(UserError, match=message) as raised:
        dense.run(experiment_of(config, workdir))
    assert "\n" not in str(raised.value)


def test_what_is_ignored_everywhere_cannot_be_scored(workdir, brightness, tmp_path):
    dense_tools.write_task(tmp_path, 4, 0)
    config = dense_tools.segmentation_config(tmp_path, brightness / "test")
    config.dense.epochs = 1
    (held_out,) = np.flatnonzero(dense_segmentation._held_out(experiment_of(config), 4))
    change(tmp_path, f"{held_out}.png", np.full((8, 8), 255))
    with pytest.raises(UserError, match="train_masks: the masks held out of it hold"):
        dense.run(experiment_of(config, workdir))


def set_fields(**fields):
    def change(config):
        for name, value in fields.items():
            config.dense[name] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (set_fields(classes=2), r"train_masks: class 2 is beyond 0\.\.1, of config"),
        (set_fields(classes=256), r"dense\.classes: 256 is not .* most 255"),
        (set_fields(train_masks=""), r"dense\.train_masks: name a folder"),
        (set_fields(test_masks="/nowhere"), r"dense\.test_masks: there is no folder"),
        (set_fields(parts=()), r"dense\.parts: empty; known: maps, retrieval"),
        (
            set_fields(parts=("retrieval",), neighbours=65),
            r"dense\.neighbours: 65 of 64 training images",
        ),
        (
            set_fields(parts=("maps",), clusters=500),
            r"dense\.clusters: tap out_1: 500 clusters of 192 different",
        ),
        (
            set_fields(parts=("maps",), images="/nowhere"),
            r"dense\.images: there is no file or folder /nowhere",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(workdir, brightness, change, message):
    config = dense_tools.segmentation_config(brightness / "train", brightness / "test")
    change(config)
    with pytest.raises(UserError, match=message) as raised:
        dense.run(experiment_of(config, workdir))
    assert "\n" not in str(raised.value)


def test_a_test_class_that_training_lacks_is_refused(workdir, brightness, tmp_path):
    dense_tools.write_task(tmp_path, 4, 0)
    change(tmp_path, "3.png", np.full((8, 8), 7))
    config = dense_tools.segmentation_config(brightness / "train", tmp_path)
    with pytest.raises(
        UserError, match=r"test_masks: class 7 is beyond 0\.\.2, of the"
    ):
        dense.run(experiment_of(config, workdir))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("parts", ("map",), r"dense\.parts: unknown 'map'. Did you mean 'maps'"),
        ("taps", ("out_9",), r"dense\.taps: unknown 'out_9'"),
        ("tap", "out_9", r"dense\.tap.*unknown 'out_9'"),
        ("scale", 0, r"dense\.scale: 0 is not 1 or more, at most 16"),
        ("clusters", 0, r"dense\.clusters: 0 is not 2 or more"),
        ("held_out", 1.0, r"dense\.held_out: 1\.0 is not above 0"),
    ],
)
def test_values_are_checked_before_anything_runs(field, value, message):
    config = dense_tools.make_config()
    config.dense[field] = value
    with pytest.raises(UserError, match=message):
        schema.build(config)


def test_taps_are_spread_over_the_depth():
    paths = {f"out_{i}": f"block_{i}" for i in range(1, 13)}
    assert dense.spread(paths) == ("out_1", "out_5", "out_8", "out_12")
    aliases = {"a": "x", "b": "x", "c": "y"}
    assert dense.spread(aliases) == ("a", "c")


def test_one_image_cannot_choose_a_tap():
    config = dense_tools.make_config()
    with pytest.raises(UserError, match=r"train_images: 1 image; one is held out"):
        dense_segmentation._held_out(experiment_of(config), 1)
