"""What images the page shows: those to choose from, and the references beside them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ddae_jax.data import image_files
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """Some images.

    Attributes:
      source: the images.
      names: of their classes or files; not to be trusted.
      what: they are, in words.
    """

    source: Source
    names: Sequence[str]
    what: str


def of(experiment: Experiment, trained: Trained) -> tuple[Named, Named]:
    """(to choose from, references): of the test and training set, or of a folder.

    Raises:
      UserError: there are none, or not of the network's shape.
    """
    settings = experiment.settings.explore
    if settings.images:
        everything = _of_folder(experiment, trained)
        chosen, references = everything, everything
    else:
        chosen, references = (
            _of_split(experiment, trained, split) for split in ("test", "train")
        )
    chosen, references = (
        _spread(chosen, settings.count),
        _spread(references, settings.references),
    )
    if settings.neighbours > len(references.names):
        raise UserError(
            f"config.explore.neighbours: {settings.neighbours} of "
            f"{len(references.names)} references"
        )
    return chosen, references


def _of_split(experiment: Experiment, trained: Trained, split: str) -> Named:
    source = experiment.source(split)
    trained.check_images(source)
    names = [source.class_names[label] for label in source.labels]
    what = {"test": "test images", "train": "training images"}[split]
    return Named(source, names, f"{what} of {source.name}")


def _of_folder(experiment: Experiment, trained: Trained) -> Named:
    field, data = "config.explore.images", experiment.settings.data
    root, paths = image_files.find(experiment.settings.explore.images, field)
    source = image_files.source(
        field,
        paths,
        trained.seen_shape,
        image_files.enlarges(data.name),
        threads=data.threads,
        resize=data.resize,
    )
    names = [path.relative_to(root).as_posix() for path in paths]
    return Named(source, names, f"images of {root}")


def _spread(named: Named, count: int) -> Named:
    """At most `count` of them, from all over: sets lie in the order of classes."""
    places = np.linspace(0, len(named.names) - 1, min(count, len(named.names)))
    places = np.unique(places.round().astype(int))
    source = data_source.subset(named.source, places)
    return dataclasses.replace(
        named, source=source, names=[named.names[place] for place in places]
    )
