"""Image folders and Tiny-ImageNet's layout: real PNG and JPEG files, then broken."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import image_folder, sources
from ddae_jax.errors import UserError
from ddae_jax.runtime import memory
from tests.tools.data_files import save_image


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("ant", "bee", "cat")):
            for number in range(3):
                save_image(
                    tmp_path / split / name / f"{number}.png", seed=3 * label + number
                )
    return tmp_path


@pytest.mark.parametrize("resident_bytes", [0, 10_000])
def test_image_folder(folder, resident_bytes):
    options = {"folder": str(folder), "resident_bytes": resident_bytes}
    train = sources.load("image_folder", "train", **options)
    assert (train.images is None) == (resident_bytes == 0)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert train.class_names == ("ant", "bee", "cat")
    expected = np.asarray(Image.open(folder / "train" / "bee" / "1.png"))
    np.testing.assert_array_equal(train.read([8, 4])[1], expected)
    assert len(sources.load("image_folder", "test", **options)) == 9


def test_test_split_may_be_called_val_and_lack_a_class(folder):
    (folder / "test").rename(folder / "val")
    shutil.rmtree(folder / "val" / "bee")
    test = sources.load("image_folder", "test", folder=str(folder))
    assert test.labels.tolist() == [0, 0, 0, 2, 2, 2]


def test_resize_and_centre_crop(folder):
    path = folder / "train" / "ant" / "0.png"
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, 5:15] = (250, 100, 0)
    Image.fromarray(picture).save(path)
    save_image(folder / "train" / "bee" / "0.png", (3, 9))
    train = sources.load("image_folder", "train", folder=str(folder), image_size=5)
    assert train.image_shape == (5, 5, 3)
    np.testing.assert_array_equal(train.images[0, 2, 2], (250, 100, 0))


@pytest.mark.parametrize("resident_bytes", [0, 10_000])
def test_mixed_sizes_are_named(folder, resident_bytes):
    wrong = folder / "train" / "bee" / "2.png"
    save_image(wrong, (6, 7))
    with pytest.raises(
        UserError, match=r"7x6 pixels, but .* has 6x6; set image_size"
    ) as e:
        sources.load(
            "image_folder", "train", folder=str(folder), resident_bytes=resident_bytes
        )
    assert str(e.value).startswith(str(wrong))


def test_channels_are_converted_only_when_asked(folder):
    wrong = folder / "train" / "cat" / "0.png"
    grey = save_image(wrong, mode="L")
    with pytest.raises(UserError, match=r"1 channels, but .* has 3; set channels") as e:
        sources.load("image_folder", "train", folder=str(folder))
    assert str(wrong) in str(e.value)
    colour = sources.load("image_folder", "train", folder=str(folder), channels=3)
    np.testing.assert_array_equal(colour.images[6], np.repeat(grey[..., None], 3, -1))
    assert sources.load(
        "image_folder", "train", folder=str(folder), channels=1
    ).image_shape == (6, 6, 1)


def test_alpha_is_an_error_unless_asked(folder):
    wrong = folder / "train" / "ant" / "1.png"
    save_image(wrong, mode="RGBA")
    with pytest.raises(UserError, match="colour mode RGBA is neither") as error:
        sources.load("image_folder", "train", folder=str(folder))
    assert str(wrong) in str(error.value)
    sources.load("image_folder", "train", folder=str(folder), channels=3)


def test_sixteen_bits_are_refused(folder):
    wrong = folder / "train" / "ant" / "1.png"
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(wrong)
    with pytest.raises(UserError, match="no 8-bit conversion"):
        sources.load("image_folder", "train", folder=str(folder), channels=1)


@pytest.mark.parametrize("size", [None, 6])
@pytest.mark.parametrize("keep", [0, 20, 90])
def test_corrupt_files_are_named(folder, size, keep):
    wrong = folder / "train" / "cat" / "2.png"
    wrong.write_bytes(wrong.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a readable image") as error:
        sources.load("image_folder", "train", folder=str(folder), image_size=size)
    assert str(wrong) in str(error.value) and "\n" not in str(error.value)


def test_a_corrupt_file_is_named_when_it_is_streamed(folder):
    wrong = folder / "train" / "cat" / "2.png"
    wrong.write_bytes(wrong.read_bytes()[:90])
    options = {"folder": str(folder), "image_size": 6, "resident_bytes": 0}
    train = sources.load("image_folder", "train", **options)
    train.read([0, 7])
    with pytest.raises(UserError, match=r"cat/2\.png: not a readable image"):
        train.read([0, 8])


def test_structure_errors_are_named(folder):
    def error(split="train"):
        with pytest.raises(UserError) as raised:
            sources.load("image_folder", split, folder=str(folder))
        return str(raised.value)

    (folder / "train" / "dog").mkdir()
    (folder / "train" / "dog" / "notes.txt").write_text("no image")
    assert error() == f"{folder / 'train' / 'dog'}: class folder without images"
    shutil.rmtree(folder / "train" / "dog")
    save_image(folder / "test" / "elk" / "0.png")
    assert error("test").startswith(f"{folder / 'test' / 'elk'}: no such class")
    shutil.rmtree(folder / "test")
    assert "holds no folder test or val" in error("test")
    shutil.rmtree(folder / "train")
    assert "holds no folder train" in error()
    (folder / "train").mkdir()
    assert "holds no class folders" in error()


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    for label, name in enumerate(("n02", "n01")):
        for number in range(2):
            save_image(
                root / "train" / name / "images" / f"{name}_{number}.JPEG", (8, 8)
            )
            file = f"val_{2 * label + number}.JPEG"
            mode = "L" if number else "RGB"
            save_image(root / "val" / "images" / file, (8, 8), mode)
            lines.append(f"{file}\t{name}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "words.txt").write_text("n01\tgoldfish\nn09\telse\n")
    return tmp_path


def test_tiny_imagenet(tiny):
    train = sources.load("tiny_imagenet", "train", folder=str(tiny))
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.class_names == ("goldfish", "n02")
    inside = tiny / "tiny-imagenet-200"
    test = sources.load("tiny_imagenet", "test", folder=str(inside), image_size=4)
    assert test.images.shape == (4, 4, 4, 3)
    assert test.labels.tolist() == [1, 1, 0, 0]


def test_tiny_imagenet_errors(tiny):
    root = tiny / "tiny-imagenet-200"
    table = root / "val" / "val_annotations.txt"
    text = table.read_text()

    def error(split="test"):
        with pytest.raises(UserError) as raised:
            sources.load("tiny_imagenet", split, folder=str(tiny))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    table.write_text("".join(text.splitlines(True)[1:]))
    assert error() == f"{table}: no label for {root / 'val' / 'images' / 'val_0.JPEG'}"
    table.write_text(text.replace("n02", "n77"))
    assert error().startswith(f"{table}: line 1 names no class")
    table.write_text(text + "val_9.JPEG\tn01\n")
    assert error().startswith(f"{root / 'val' / 'images' / 'val_9.JPEG'}: missing")
    table.unlink()
    assert error().startswith(f"{table}: cannot be read")
    table.write_text(text)
    shutil.rmtree(root / "val" / "images")
    assert error() == f"{root / 'val' / 'images'}: holds no images"
    shutil.rmtree(root / "train" / "n01" / "images")
    assert error("train").startswith(f"{root / 'train' / 'n01'}: class folder")
    shutil.rmtree(root / "train")
    assert "holds no folder train" in error("train")
    (root / "train").mkdir()
    assert "holds no class folders" in error("train")


@pytest.fixture
def unsplit(tmp_path):
    for label, name in enumerate(("ant", "bee", "cat")):
        for number in range(10):
            save_image(
                tmp_path / "Insects" / name / f"{number}.png", seed=10 * label + number
            )
    return tmp_path / "Insects"


def test_a_folder_of_classes_is_split_for_good(unsplit, tmp_path, caplog):
    def both(folder):
        loaded = [
            sources.load("image_folder", split, folder=str(folder))
            for split in ("train", "test")
        ]
        return loaded, [{image.tobytes() for image in one.images} for one in loaded]

    (unsplit / ".cache").mkdir()  # of some program
    caplog.set_level("INFO", "absl")
    (train, test), (seen, unseen) = both(unsplit)
    assert "24 images are for training and 6 for testing" in caplog.text
    assert train.name == "Insects" and train.class_names == ("ant", "bee", "cat")
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    assert len(seen | unseen) == 30 and not seen & unseen
    # A copy elsewhere, with a class more, is split alike.
    shutil.copytree(unsplit, tmp_path / "copy")
    save_image(tmp_path / "copy" / "dog" / "0.png", seed=77)
    (train, _), (seen_again, unseen_again) = both(tmp_path / "copy")
    assert unseen_again == unseen and seen < seen_again
    assert train.class_names[3] == "dog" and np.bincount(train.labels)[3] == 1


def test_the_split_does_not_change_with_the_code(unsplit):
    members = image_folder.image_files(unsplit / "ant")
    chosen = image_folder.test_part(members, unsplit)
    assert sorted(path.stem for path in chosen) == FIFTH_OF_ANTS


FIFTH_OF_ANTS = ["4", "6"]


def test_folders_that_cannot_be_split(tmp_path):
    for name in ("ant", "bee"):
        save_image(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="every class has one image"):
        sources.load("image_folder", "train", folder=str(tmp_path))
    shutil.rmtree(tmp_path / "ant")
    (tmp_path / "bee" / "0.png").rename(tmp_path / "0.png")
    (tmp_path / "bee").rmdir()
    with pytest.raises(UserError, match="no folders of classes; images without"):
        sources.load("image_folder", "train", folder=str(tmp_path))
    with pytest.raises(UserError, match=r"config\.data\.folder: set the folder"):
        sources.load("image_folder", "train")


def test_memory_is_asked_for_first(folder, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 900)
    options = {"folder": str(folder)}
    with pytest.raises(UserError) as error:
        sources.load("image_folder", "train", **options)
    assert str(error.value) == (
        f"config.data.resident_bytes: {folder.name} (9 images) needs about 0.0 MB of "
        "memory, and 0.0 MB are free; lower it below 972 to read the images while "
        "training"
    )
    assert (
        len(sources.load("image_folder", "train", **options, resident_bytes=971)) == 9
    )
