"""Every data set in SOURCES keeps the contract of data/source.py."""

import numpy as np
import pytest

from ddae_jax.data import image_files, person_sets, person_synthetic, sources
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from tests.tools import data_files

# What is not here needs no files. Images of one size, unless told.
WRITERS = {
    "fashion_mnist": data_files.write_fashion_mnist,
    "idx": data_files.write_fashion_mnist,
    "cifar10": lambda folder: data_files.write_cifar(folder, "cifar10"),
    "cifar100": lambda folder: data_files.write_cifar(folder, "cifar100"),
    "image_folder": data_files.write_image_folder,
    "arrays": data_files.write_arrays,
    "tiny_imagenet": lambda folder: data_files.write_tiny_imagenet(folder, 3, 4),
    "market1501": data_files.write_persons,
    "dukemtmc": data_files.write_persons,
    "cuhk03": data_files.write_persons,
    "msmt17": data_files.write_msmt17,
}
TALL = (person_synthetic.NAME, *person_sets.SETS)
# The channels are told where a set has grey and coloured files.
TOLD = {"image_folder": {"channels": 3}}

# Latents hold no images: test_latents.py.
NAMES = [name for name in sources.SOURCES if name != "latents"]
pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for name in sources.SOURCES.keys() & WRITERS.keys():
        found[name] = tmp_path_factory.mktemp(name)
        WRITERS[name](found[name])
    return found


@pytest.fixture
def load(name, folders):
    def load(split, **options):
        options = TOLD.get(name, {}) | options
        return sources.load(name, split, folder=folders.get(name), **options)

    return load


def everything(source):
    return source.read(np.arange(len(source)))


def test_both_splits_are_labelled_images_of_one_shape(load):
    train, test = (load(split) for split in sources.SPLITS)
    for split, source in zip(sources.SPLITS, (train, test), strict=True):
        assert isinstance(source, Source) and source.split == split and source.name
        images = everything(source)
        assert images.dtype == np.uint8 and len(images) == len(source) > 0
        assert images.shape[1:] == source.image_shape
        assert source.image_shape[-1] in (1, 3)
        assert source.labels.shape == (len(source),)
        assert source.labels.dtype == np.int32
        assert 0 <= source.labels.min() <= source.labels.max()
        assert source.labels.max() < len(source.class_names)
        assert all(isinstance(one, str) and one for one in source.class_names)
    assert train.class_names == test.class_names
    assert train.image_shape == test.image_shape
    seen = {image.tobytes() for image in everything(train)}
    assert not seen & {image.tobytes() for image in everything(test)}


def test_images_on_demand_are_those_in_memory(load):
    resident, on_demand = load("train"), load("train", resident_bytes=0)
    assert resident.images is not None and on_demand.images is None
    np.testing.assert_array_equal(resident.labels, on_demand.labels)
    indices = np.array([3, 3, 0, len(resident) - 1])
    np.testing.assert_array_equal(resident.read(indices), on_demand.read(indices))
    np.testing.assert_array_equal(everything(load("train")), everything(resident))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [5, 70])  # below and above all of them
def test_size_and_channels_are_those_asked_for(load, name, image_size, channels):
    source = load("test", image_size=image_size, channels=channels)
    height = 2 * image_size if name in TALL else image_size
    assert source.image_shape == (height, image_size, channels)
    assert everything(source).shape[1:] == source.image_shape


def test_a_set_enlarges_small_images_where_it_says_so(load, name):
    margin = everything(load("test", image_size=70))[:, 0].any()
    assert margin == sources.SOURCES[name].enlarges == image_files.enlarges(name)


def test_what_cannot_be_loaded_is_one_line(load, name, tmp_path):
    for wrong in (
        lambda: load("valid"),
        lambda: load("train", image_size=0),
        lambda: load("train", channels=2),
        lambda: sources.load(name, "train", folder=tmp_path / "none"),
    ):
        with pytest.raises(UserError) as raised:
            wrong()
        assert "\n" not in str(raised.value)


def test_the_name_cannot_be_taken_by_another(name):
    known = sources.SOURCES[name]
    with pytest.raises(UserError, match=f"there is a data set '{name}' already"):
        sources.register_source(name, lambda split, **options: None)
    assert sources.SOURCES[name] is known
