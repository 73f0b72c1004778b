"""A linear segmentation probe: the class of each pixel from the features there."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int, PRNGKeyArray

from ddae_jax.data import image_files, masks
from ddae_jax.data import source as data_source
from ddae_jax.data.masks import IGNORE, MaskedImages
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.spatial import device_batches
from ddae_jax.heads import segmentation
from ddae_jax.metrics import classification
from ddae_jax.report import pictures
from ddae_jax.report.outcome import Picture
from ddae_jax.runtime import parallel
from ddae_jax.tasks.dense import segmentation_training
from ddae_jax.tasks.dense.job import Job, Part
from ddae_jax.train.folders import clear

_FOLDERS = ("train_images", "train_masks", "test_images", "test_masks")
_SHOWN = 6  # test images in the picture


def run(experiment: Experiment, job: Job) -> Part:
    """Trains a head for each tap on config.dense.train_images, and tests it.

    The tap is chosen by heads that were trained without the held-out images, on those;
    heads trained on all images are what is tested. Masks are brought to the network's
    size as their images are, and scored there.

    Raises:
      UserError: folders or masks that cannot be used (data/masks.py); a single class,
        or a class beyond the others; too few images.
    """
    train, test = _load(experiment, job)
    count = class_count(train, test, experiment.settings.dense.classes)
    held_out = _held_out(experiment, len(train))
    keys = [experiment.stream(f"dense/{part}_noise") for part in ("held_out", "test")]
    statistics = _statistics(
        experiment, job, train, experiment.stream("dense/statistics")
    )
    choosing, final = segmentation_training.fit(
        experiment, job, train, held_out, count, statistics
    )
    kept_out = subset(train, np.flatnonzero(held_out))
    by_held_out, by_test = (
        _confusions(experiment, job, heads, statistics, images, count, part_key)
        for heads, images, part_key in zip(
            (choosing, final), (kept_out, test), keys, strict=True
        )
    )
    for name, found in (("train", by_held_out), ("test", by_test)):
        if not found[job.taps[0]].any():
            part = "held out of" if name == "train" else "in"
            raise UserError(
                f"config.dense.{name}_masks: the masks {part} it hold ignored pixels "
                "alone"
            )
    chosen = max(job.taps, key=lambda tap: classification.mean_iou(by_held_out[tap]))
    scores = {tap: _scores(by_test[tap]) for tap in job.taps}
    for tap in job.taps:
        scores[tap]["held_out_mean_iou"] = classification.mean_iou(by_held_out[tap])
    best = scores[chosen]
    rows = [(tap, "mean IoU", scores[tap]["mean_iou"]) for tap in job.taps]
    rows += [(chosen, "pixel accuracy", best["pixel_accuracy"])]
    rows += [
        (chosen, f"IoU of class {label}", "–" if value is None else value)
        for label, value in enumerate(best["iou"])
    ]
    part = Part(
        summary=(
            f"segmentation: mean IoU {100 * best['mean_iou']:.2f} % at {chosen} "
            "(chosen on held-out images)"
        ),
        facts={"chosen": {"tap": chosen, **best}, "taps": scores, "classes": count},
        protocol=_protocol(experiment, train, held_out, test),
        rows=rows,
        picture=_picture(experiment, job, final, statistics, test, chosen, keys[1]),
    )
    # All is measured: nothing will go on in it.
    clear(segmentation_training.folder(experiment))
    return part


def _load(experiment: Experiment, job: Job) -> tuple[MaskedImages, MaskedImages]:
    settings = experiment.settings.dense
    for name in _FOLDERS:
        if not getattr(settings, name):
            raise UserError(f"config.dense.{name}: name a folder; segmentation needs 4")
    return tuple(
        masks.load(
            getattr(settings, images),
            getattr(settings, of_images),
            (f"config.dense.{images}", f"config.dense.{of_images}"),
            job.trained.seen_shape,
            image_files.enlarges(experiment.settings.data.name),
            experiment.settings.data.resident_bytes,
            experiment.settings.data.resize,
        )
        for images, of_images in (_FOLDERS[:2], _FOLDERS[2:])
    )


def class_count(train: MaskedImages, test: MaskedImages, given: int) -> int:
    """How many classes there are: `given`, or, where that is 0, those in training.

    Raises:
      UserError: one class only, or an index that is none of the classes.
    """
    if len(train.classes) < 2:
        found = f"class {train.classes[0]}" if train.classes else "ignored pixels"
        raise UserError(
            f"config.dense.train_masks: they hold {found} alone; two classes are needed"
        )
    if not test.classes:
        raise UserError("config.dense.test_masks: they hold ignored pixels alone")
    if given > IGNORE:
        raise UserError(
            f"config.dense.classes: {given} is more than {IGNORE}, which masks can hold"
        )
    count = given or train.classes[-1] + 1
    for field, found in (("train_masks", train), ("test_masks", test)):
        if found.classes[-1] >= count:
            known = "config.dense.classes" if given else "the training masks"
            raise UserError(
                f"config.dense.{field}: class {found.classes[-1]} is beyond "
                f"0..{count - 1}, of {known} ({IGNORE} is ignored)"
            )
    return count


def _held_out(experiment: Experiment, count: int) -> Bool[np.ndarray, "count"]:
    if count < 2:
        raise UserError(
            f"config.dense.train_images: {count} image; one is held out to choose the "
            "tap, one must be left"
        )
    held = min(max(round(experiment.settings.dense.held_out * count), 1), count - 1)
    mask = np.zeros(count, bool)
    mask[np.random.default_rng(experiment.settings.seed).permutation(count)[:held]] = (
        True
    )
    return mask


def subset(images: MaskedImages, indices: Int[np.ndarray, "count"]) -> MaskedImages:
    """The images at `indices`, in that order."""
    return dataclasses.replace(
        images,
        images=data_source.subset(images.images, indices),
        read_masks=lambda chosen: images.read_masks(indices[chosen]),
    )


def _statistics(
    experiment: Experiment, job: Job, train: MaskedImages, noise_key: PRNGKeyArray
) -> segmentation.Statistics:
    moments = segmentation.Moments()
    for _, valid, features in _features(experiment, job, train, noise_key):
        moments = moments.add(features, valid)
    return moments.statistics()


def _features(experiment: Experiment, job: Job, images: MaskedImages, noise_key):
    return device_batches(
        job.grid_encoder(),
        job.trained.variables,
        job.trained.mesh,
        images.images,
        job.cell.time.time,
        noise_key,
        experiment.settings.dense.batch_size,
    )


def _predictions(experiment, job, heads, statistics, images, noise_key):
    """Yields (indices, tap -> classes of the pixels) in order, on the host."""
    size = images.images.image_shape[:2]
    for indices, valid, features in _features(experiment, job, images, noise_key):
        found = segmentation.predict(heads, features, statistics, size)
        indices, valid, found = parallel.on_host((indices, valid, found))
        yield indices[valid], {tap: value[valid] for tap, value in found.items()}


def _confusions(
    experiment, job, heads, statistics, images, count, noise_key
) -> dict[str, Int[np.ndarray, "classes classes"]]:
    totals = {tap: np.zeros((count, count), np.int64) for tap in job.taps}
    for indices, found in _predictions(
        experiment, job, heads, statistics, images, noise_key
    ):
        truth = images.read_masks(indices)
        for tap in job.taps:
            totals[tap] += classification.confusion_matrix(
                found[tap], truth, count, IGNORE
            )
    return totals


def _scores(confusion: Int[np.ndarray, "classes classes"]) -> dict:
    """Of the test set, in [0, 1]; None for a class that does not occur."""
    found = classification.intersection_over_union(confusion)
    return {
        "mean_iou": classification.mean_iou(confusion),
        "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
        "iou": [None if np.isnan(value) else float(value) for value in found],
    }


def _protocol(experiment, train: MaskedImages, held_out, test: MaskedImages) -> dict:
    height, width = train.images.image_shape[:2]
    return {
        "train_images": len(train),
        "held_out_images": int(held_out.sum()),
        "test_images": len(test),
        "scored_at": f"{height}x{width} pixels",
        "head": "one linear layer on standardised features, enlarged bilinearly",
        "epochs": experiment.settings.dense.epochs,
        "batch_size": experiment.settings.dense.batch_size,
        "learning_rate": experiment.settings.dense.learning_rate,
        "schedule": "Adam, cosine to 0",
        "augmentation": "none; fresh noise in every epoch",
    }


def _picture(experiment, job, heads, statistics, test, chosen, noise_key) -> Picture:
    some = subset(test, np.arange(min(_SHOWN, len(test))))
    found = [
        part[chosen]
        for _, part in _predictions(experiment, job, heads, statistics, some, noise_key)
    ]
    everyone = np.arange(len(some))
    truth = some.read_masks(everyone)
    drawn = pictures.paint(truth)
    drawn[truth == IGNORE] = 0
    figure = pictures.maps(
        some.images.read(everyone),
        [f"test image {i}" for i in everyone],
        [
            ("mask", drawn),
            (f"prediction\nfrom {chosen}", pictures.paint(np.concatenate(found))),
        ],
    )
    return Picture(
        f"Test images, their masks (black: ignored) and what the head of {chosen} "
        "predicts",
        figure,
    )
