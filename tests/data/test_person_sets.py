"""Sets of persons in their published layouts, and what cannot be read of them."""

import json

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import person_cuhk03, person_images, person_sets, person_synthetic
from ddae_jax.errors import UserError
from tests.tools import data_files

PEOPLE = data_files.PEOPLE


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    data_files.write_persons(folder)
    return folder


def load(folder, part, name="market1501", width=8, **options):
    return person_sets.load(name, part, folder=str(folder), width=width, **options)


def test_parts_of_the_market_layout(market):
    train, query, gallery = (load(market, part) for part in person_images.PARTS)
    assert (len(train), len(query), len(gallery)) == (24, 8, 11)  # -1 is dropped
    assert sorted(set(train.identities)) == [1, 2, 3, 4, 5, 6]
    assert sorted(set(query.identities)) == [7, 8, 9, 10]
    assert sorted(set(gallery.identities)) == [0, 7, 8, 9, 10]  # 0 is kept
    assert query.source.class_names == gallery.source.class_names
    for images in (train, query, gallery):
        assert set(images.cameras) == {1, 2}
        names = [images.source.class_names[label] for label in images.source.labels]
        assert [int(name) for name in names] == images.identities.tolist()
    assert train.source.image_shape == (16, 8, 3)


@pytest.mark.parametrize("part", person_images.PARTS)
def test_the_synthetic_set_is_the_same_in_files(market, part):
    files, memory = load(market, part), person_synthetic.part(part, 8, people=PEOPLE)
    assert files.source.class_names == memory.source.class_names
    order = np.argsort(memory.names, kind="stable")  # files are sorted by name
    for ours, theirs in (
        (files.identities, memory.identities),
        (files.cameras, memory.cameras),
        (files.source.labels, memory.source.labels),
        (files.source.images, memory.source.images),
    ):
        np.testing.assert_array_equal(ours, theirs[order])


def test_images_are_stretched_to_the_size_asked_for(market):
    assert load(market, "query", width=6).source.image_shape == (12, 6, 3)
    assert load(market, "query", width=None).source.image_shape == (16, 8, 3)


def test_the_msmt17_layout(tmp_path):
    data_files.write_msmt17(tmp_path)
    train = load(tmp_path, "train", "msmt17")
    assert len(train) == 24 and set(train.cameras) == {1, 2}
    # Its person 0 is one like others, so numbers are one higher.
    assert sorted(set(train.identities)) == [2, 3, 4, 5, 6, 7]
    assert len(load(tmp_path, "gallery", "msmt17")) == 11
    for part in ("train", "test"):
        (tmp_path / part).rename(tmp_path / f"mask_{part}_v2")
    assert len(load(tmp_path, "query", "msmt17")) == 8


def test_sets_are_joined_with_persons_and_cameras_apart(market, tmp_path):
    data_files.write_msmt17(tmp_path)
    one, two = load(market, "train"), load(tmp_path, "train", "msmt17")
    both = person_images.joined([one, two])
    assert len(both) == 48 and len(both.source.class_names) == 12
    assert both.source.name == "market1501+msmt17"
    assert set(both.source.labels[:24]).isdisjoint(both.source.labels[24:])
    assert set(both.cameras[:24]).isdisjoint(both.cameras[24:])
    np.testing.assert_array_equal(both.source.images[24:], two.source.images)
    streamed = person_images.joined(
        [load(market, "train", resident_bytes=0), load(tmp_path, "train", "msmt17")]
    )
    assert streamed.source.images is None
    chosen = [40, 3, 3, 25]
    np.testing.assert_array_equal(
        streamed.source.read(chosen), both.source.read(chosen)
    )
    with pytest.raises(UserError, match=r"config\.data\.image_size.*msmt17"):
        person_images.joined([one, load(tmp_path, "train", "msmt17", width=6)])


def test_persons_of_one_image_can_be_left_out(market):
    train = load(market, "train")
    kept = train.subset(np.flatnonzero(train.identities != 2))
    one = train.subset(np.flatnonzero(train.identities == 2)[:1])
    fewer = person_images.joined([kept, one])
    # Persons 2 of the first and all but 2 of the second have no image any more.
    left = person_images.without_singles(fewer)
    assert len(left) == 20 and len(left.source.class_names) == 5
    assert sorted(set(left.source.labels)) == [0, 1, 2, 3, 4]
    assert person_images.without_singles(left) is left


def test_what_cannot_be_read_is_one_line(market, tmp_path):
    def refused(match, folder, part="query", name="market1501"):
        with pytest.raises(UserError, match=match) as raised:
            load(folder, part, name)
        assert "\n" not in str(raised.value)

    refused(r"config\.data\.folder: .* has no folder query", tmp_path)
    for place in ("query", "bounding_box_test"):
        (tmp_path / place).mkdir()
    refused(r"config\.data\.folder: .*query holds no images", tmp_path)
    wrong = tmp_path / "query" / "somebody.png"
    Image.new("RGB", (8, 16)).save(wrong)
    refused(r"somebody\.png: the name is not IDENTITY_cCAMERA", tmp_path)
    wrong.rename(wrong.with_name("0001_c1.png"))
    refused("bounding_box_test holds no images", tmp_path)
    refused(r"has no folder train or mask_train_v2", tmp_path, "train", "msmt17")
    (tmp_path / "train").mkdir()
    refused(r"list_train\.txt: not a readable list", tmp_path, "train", "msmt17")
    lists = tmp_path / "list_train.txt"
    lists.write_text("\n0000/0000_000_01_a.jpg x\n")
    refused(r"list_train\.txt: line 2: not FILE", tmp_path, "train", "msmt17")
    lists.write_text("\n")
    refused("an empty list", tmp_path, "train", "msmt17")
    with pytest.raises(UserError, match=r"config\.data\.name.*Did you mean 'cuhk03'"):
        load(market, "train", "cuhk3")
    with pytest.raises(UserError, match=r"config\.data\.folder: set the folder"):
        person_sets.load("dukemtmc", "train", folder=None, width=8)


@pytest.fixture
def extracted(tmp_path):
    """Three persons by two views of two pairs of cameras, and two splits."""
    images = tmp_path / "images_labeled"
    images.mkdir()
    rows = {}
    for pair, person in ((1, 1), (1, 2), (2, 1)):
        rows[pair, person] = []
        for view, number in ((1, 1), (1, 2), (2, 6)):
            name = f"{pair}_{person:03d}_{view}_{number:02d}.png"
            Image.new("RGB", (8, 16), (pair, person, number)).save(images / name)
            rows[pair, person].append([f"/elsewhere/{name}", person, view - 1])
    splits = []
    for tested in ((1, 2), (2, 1)):
        train = [row for key, own in rows.items() if key != tested for row in own]
        splits.append({"train": train, "query": [], "gallery": rows[tested]})
    path = tmp_path / "splits_classic_labeled.json"
    path.write_text(json.dumps(splits))
    return images, path


def test_the_older_splits_of_cuhk03(extracted, tmp_path):
    images, splits = extracted
    target = tmp_path / "split2"
    person_cuhk03.main([str(images), str(splits), "2", str(target)])
    train, query, gallery = (
        load(target, part, "cuhk03") for part in person_images.PARTS
    )
    assert (len(train), len(query), len(gallery)) == (6, 2, 1)
    assert set(train.identities) == {10_001, 10_002}
    assert set(query.identities) == {20_001} == set(gallery.identities)
    assert set(train.cameras) == {1, 2}
    assert set(query.cameras) == {3} and set(gallery.cameras) == {4}
    assert gallery.source.images[0, 0, 0].tolist() == [2, 1, 6]


@pytest.mark.parametrize(
    ("number", "match"),
    [(3, "there is no split 3"), (0, "numbered from 1"), (1, "is there already")],
)
def test_an_older_split_that_cannot_be_made(extracted, tmp_path, number, match):
    images, splits = extracted
    with pytest.raises(UserError, match=match):
        person_cuhk03.write_split(images, splits, number, tmp_path)


def test_older_splits_of_damaged_files(extracted, tmp_path):
    images, splits = extracted
    target = tmp_path / "target"
    (images / "1_001_1_01.png").rename(images / "1_001_1_09.png")
    with pytest.raises(UserError, match=r"1_001_1_01\.png: named in .*, not there"):
        person_cuhk03.write_split(images, splits, 1, target)
    assert not target.exists()
    with pytest.raises(UserError, match=r"0002_c1\.png: the name is not PAIR"):
        person_cuhk03.market_name("0002_c1.png")
    splits.write_text('[{"train": 1}]')
    with pytest.raises(UserError, match="not a list of splits"):
        person_cuhk03.write_split(images, splits, 1, target)
    with pytest.raises(SystemExit, match="usage"):
        person_cuhk03.main(["one"])
