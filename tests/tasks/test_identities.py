"""Results follow from the content of images, not from where they lie."""

import pathlib
import shutil

import pytest

from ddae_jax.experiment import Experiment, cell
from ddae_jax.tasks import track
from ddae_jax.tasks.finetune import saved as finetune_saved
from ddae_jax.tasks.noisy_classifier import weights_follow_from
from ddae_jax.tasks.predict import head as predict_head
from tests.tools import data_files, dense
from tests.tools.experiments import experiment_of

COUNT = 16  # of each class in each split


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    for split in ("train", "test"):
        for number in range(2 * COUNT):
            name = f"{split}/{'ab'[number % 2]}/{number}.png"
            data_files.save_image(folder / name, (8, 8), "L", seed=number)
    return folder


@pytest.fixture(scope="module")
def moved(photos):
    """The same images under another name."""
    return shutil.copytree(photos, photos.parent / "elsewhere")


@pytest.fixture(scope="module")
def swapped(photos):
    """The same files, each in the other class."""
    folder = shutil.copytree(photos, photos.parent / "swapped" / "photos")
    for split in ("train", "test"):
        (folder / split / "a").rename(folder / split / "c")
        (folder / split / "b").rename(folder / split / "a")
        (folder / split / "c").rename(folder / split / "b")
    return folder


@pytest.fixture(scope="module")
def trained_on(photos, tmp_path_factory):
    """Folder -> the experiment of one workdir on the images there."""
    config = dense.make_config()
    config.data.name = "image_folder"
    workdir = tmp_path_factory.mktemp("run")
    dense.write_checkpoint(workdir, config)

    def on(folder: pathlib.Path) -> Experiment:
        config.data.folder = str(folder)
        return experiment_of(config, workdir)

    return on


def of_track(experiment):
    return track.probed_with(experiment)


def of_head(experiment):
    return of_training(experiment, "predict", predict_head.identity_of)


def of_finetuning(experiment):
    return of_training(experiment, "finetune", finetune_saved.settings)


def of_training(experiment, section, function):
    trained = experiment.trained()
    chosen = cell.choose(experiment, section, trained.denoiser)
    return function(experiment, trained, chosen, experiment.source("train"))


def of_noisy_classifier(experiment):
    train = experiment.source("train")
    return weights_follow_from(experiment, "wide_resnet", train, ("process.",))


@pytest.mark.parametrize("of", [of_track, of_head, of_finetuning, of_noisy_classifier])
def test_other_images_are_noticed_and_another_folder_is_not(
    of, trained_on, photos, moved, swapped
):
    before = of(trained_on(photos))
    assert of(trained_on(moved)) == before
    assert of(trained_on(swapped)) != before
