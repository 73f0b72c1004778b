"""Which images a probe learns from, which are held out, and what cannot be probed."""

import numpy as np
from jaxtyping import Bool

from ddae_jax.data import source as data_source
from ddae_jax.data.label_fraction import labelled_part
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment


def check_sources(train: Source, test: Source, image_shape: tuple[int, ...]) -> None:
    """Raises a UserError where nothing can be classified, or nothing compared."""
    for source in (train, test):
        if tuple(source.image_shape) != tuple(image_shape):
            raise UserError(
                f"config.data: images of {source.name} are {source.image_shape}, the "
                f"checkpoint was trained on {tuple(image_shape)}"
            )
    data_source.check_classes(train, "config.probe.train_count")


def masks_by_seed(
    experiment: Experiment, train: Source
) -> dict[int, Bool[np.ndarray, "count"]]:
    """Maps each seed to the mask of the training images that are held out.

    Raises:
      UserError: fewer images are held out than there are classes.
    """
    seeds = range(
        experiment.settings.seed,
        experiment.settings.seed + experiment.settings.probe.seeds,
    )
    share = experiment.settings.probe.held_out
    try:
        masks = {seed: data_source.held_out_mask(train, share, seed) for seed in seeds}
    except UserError as error:
        raise UserError(f"config.probe.held_out: {error}") from error
    count = int(masks[experiment.settings.seed].sum())
    if count < len(train.class_names):
        raise UserError(
            f"config.probe.held_out: {share} of {len(train)} images holds out {count}, "
            f"too few to choose by for {len(train.class_names)} classes"
        )
    return masks


def labelled_by_seed(
    experiment: Experiment, train: Source
) -> dict[int, tuple[Source, Bool[np.ndarray, "labelled"]]]:
    """Maps each seed to the labelled images and the mask of those that are held out.

    With config.probe.label_fraction below 1 both parts come out of the labelled images
    alone, and every class has at least one in either.

    Raises:
      UserError: fewer labelled images than classes, a class with a single one, or fewer
        held-out images than classes.
    """
    fraction = experiment.settings.probe.label_fraction
    if fraction == 1:
        return {
            seed: (train, mask)
            for seed, mask in masks_by_seed(experiment, train).items()
        }
    classes = len(train.class_names)
    if round(fraction * len(train)) < classes:
        raise UserError(
            f"config.probe.label_fraction: {fraction} of {len(train)} images labels "
            f"{round(fraction * len(train))}, fewer than the {classes} classes"
        )
    found = {}
    for seed in range(
        experiment.settings.seed,
        experiment.settings.seed + experiment.settings.probe.seeds,
    ):
        indices = labelled_part(train.labels, fraction, seed)
        labelled = data_source.subset(train, indices)
        found[seed] = labelled, _held_out(experiment, labelled, seed)
    return found


def _held_out(experiment: Experiment, labelled: Source, seed: int):
    """As `data_source.held_out_mask`, but for at least one image of every class."""
    mask = np.zeros(len(labelled), bool)
    fraction = experiment.settings.probe.label_fraction
    for label in np.unique(labelled.labels):
        members = np.flatnonzero(labelled.labels == label)
        if len(members) < 2:
            raise UserError(
                f"config.probe.label_fraction: {fraction} leaves one labelled image of "
                f"class {labelled.class_names[label]!r}; it takes two, to learn from "
                "and to choose by"
            )
        share = round(experiment.settings.probe.held_out * len(members))
        count = min(max(share, 1), len(members) - 1)
        # Another stream than the one that chose the labelled images.
        order = np.random.default_rng([seed, int(label), 1]).permutation(len(members))
        mask[members[order[:count]]] = True
    return mask
