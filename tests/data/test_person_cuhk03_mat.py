"""cuhk-03.mat: a small one in its published layout, extracted, split, and read."""

import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import person_cuhk03, person_cuhk03_mat, person_sets
from ddae_jax.errors import UserError
from tests.tools import data_files

TESTED = data_files.CUHK03_TESTED
_pixels = data_files.cuhk03_pixels


@pytest.fixture
def mat(tmp_path):
    path = tmp_path / "cuhk-03.mat"
    data_files.write_cuhk03_mat(path)
    return path


def test_images_and_splits_of_the_published_file(mat, tmp_path, capsys):
    person_cuhk03_mat.main([str(mat), str(tmp_path / "out")])
    out = tmp_path / "out"
    assert "images_labeled: 18 images" in capsys.readouterr().out
    for kind, name in enumerate(("detected", "labeled")):
        folder = out / f"images_{name}"
        assert len(list(folder.iterdir())) == 18
        for number, view in ((1, 1), (3, 1), (6, 2)):
            image = Image.open(folder / f"1_002_{view}_{number:02d}.png")
            np.testing.assert_array_equal(image, _pixels(kind, 1, 2, number))
    for number, (train, query, gallery) in enumerate([(12, 4, 2), (15, 2, 1)], 1):
        split = tmp_path / f"split{number}"
        splits = out / "splits_classic_labeled.json"
        person_cuhk03.write_split(out / "images_labeled", splits, number, split)
        parts = [
            person_sets.load("cuhk03", part, folder=str(split), width=4)
            for part in ("train", "query", "gallery")
        ]
        assert [len(part) for part in parts] == [train, query, gallery]
        identities = {10_000 * pair + person for pair, person in TESTED[number - 1]}
        assert set(parts[1].identities) == identities == set(parts[2].identities)
        assert set(parts[0].identities).isdisjoint(identities)


def test_what_begins_anew_ends_the_same(mat, tmp_path):
    for name in ("one", "two"):
        person_cuhk03_mat.extract(mat, tmp_path / name)
    (tmp_path / "two" / "images_labeled" / "1_001_1_01.png").write_bytes(b"half")
    (tmp_path / "two" / "splits_classic_labeled.json").unlink()
    person_cuhk03_mat.extract(mat, tmp_path / "two")
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
        }
        for name in ("one", "two")
    )
    assert one == two and len(one) == 38


def _other_file(file):
    del file["labeled"]
    file["labeled"] = h5py.ExternalLink("other.mat", "labeled")


def _grey(file):
    table = file[file["labeled"][0, 2]]
    file["grey"] = np.zeros((1, 4, 7), np.uint8)
    table[0, 0] = file["grey"].ref


def _huge(file):
    table = file[file["labeled"][0, 2]]
    huge = file.create_dataset("huge", (3, 1 << 20, 1 << 20), "u1", chunks=(3, 64, 64))
    table[0, 0] = huge.ref


def _unknown(file):
    file[file["testsets"][0, 0]][:, 0] = 4, 9


def _lacking(file):
    del file["detected"]


def _flat(file):
    del file["testsets"]
    file["testsets"] = np.zeros((2, 100))


def _outside(file):
    table = file[file["labeled"][0, 2]]
    pixels = file.create_dataset(
        "outside", (3, 4, 7), "u1", external=[("/etc/hostname", 0, 84)]
    )
    table[0, 0] = pixels.ref


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (_other_file, "labeled is in another file"),
        (_grey, "labeled, pair 3, person 1, image 1: not RGB"),
        (_huge, "/huge: has 3,298,534,883,328 values"),
        (_unknown, "testsets has person 9 of pair 4, labeled does not"),
        (_lacking, "it has no detected"),
        (_flat, "testsets: not one row of cells"),
        (_outside, "/outside: its values are in another file"),
    ],
)
def test_a_file_that_is_not_it(mat, tmp_path, damage, match):
    with h5py.File(mat, "r+") as file:
        damage(file)
    with pytest.raises(UserError, match=match) as caught:
        person_cuhk03_mat.extract(mat, tmp_path / "out")
    assert str(caught.value).startswith(str(mat))


def test_files_that_are_no_hdf5(tmp_path):
    for name, content in (("text", b"MATLAB 5.0 MAT-file"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="not read as cuhk-03"):
            person_cuhk03_mat.extract(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="a folder"):
        person_cuhk03_mat.extract(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="No such file"):
        person_cuhk03_mat.extract(pathlib.Path("nowhere.mat"), tmp_path / "out")


def test_a_damaged_file_from_the_shell(mat, tmp_path):
    content = mat.read_bytes()
    mat.write_bytes(content[: len(content) // 2])
    module = "ddae_jax.data.person_cuhk03_mat"
    done = subprocess.run(
        (sys.executable, "-m", module, str(mat), str(tmp_path / "out")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {mat}: not read as cuhk-03.mat")
    assert done.stderr.count("\n") == 1
