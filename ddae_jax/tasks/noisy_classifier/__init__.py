"""Classifiers of noisy images: a head on frozen features, a network from scratch."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from absl import logging
from jax.sharding import Mesh

from ddae_jax.data import source as data_source
from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.times import Time, resolve
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.heads.mlp import NoisyMLP
from ddae_jax.models.wideresnet import WideResNet
from ddae_jax.runtime import log, parallel
from ddae_jax.settings import plain
from ddae_jax.settings.fields import unknown
from ddae_jax.settings.noisy_classifier import NoisyClassifierSettings
from ddae_jax.tasks.noisy_classifier import result as noisy_classifier_result
from ddae_jax.tasks.noisy_classifier.classifier import SGD, NoisyClassifier
from ddae_jax.tasks.noisy_classifier.training import Training
from ddae_jax.train import folders
from ddae_jax.train.optimizers import Adam, CosineAfterWarmup
from ddae_jax.train.plan import steps_of_epochs

# Of the UNet with 12 taps or more (reference/ddae.md).
_PUBLISHED_TAPS = {"ddpm": "out_6", "edm": "out_7"}
_MANY_TAPS = 12


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One classifier, ready to be trained.

    Attributes:
      training: how.
      fixed: parameters that are not trained.
      facts: for the protocol: name -> value.
      determined_by: name of a config field -> value: what the trained weights follow
        from. A folder belongs to one such set.
    """

    training: Training
    fixed: dict
    facts: Mapping[str, object]
    determined_by: Mapping[str, object]


def run(experiment: Experiment) -> None:
    """Trains config.noisy_classifier.kinds in turn, and tests each at all noise levels.

    Each kind goes on from its checkpoint in `workdir`/OUTPUT/KIND. After
    each, writes noisy_classifier.json, .txt and .png with the curves there are.

    Raises:
      UserError: no checkpoint (for "features"); a folder that was trained with other
        settings; a tap, time or noise level that does not exist; too few images or
        classes; a loss that is not finite.
    """
    settings = experiment.settings.noisy_classifier
    process = experiment.settings.process
    times = test_times(settings, process)
    train = data_source.first(experiment.source("train"), settings.train_count)
    test = data_source.first(experiment.source("test"), settings.test_count)
    check_sources(train, test)
    mesh = experiment.mesh
    jobs = {kind: _MAKERS[kind](experiment, train, mesh) for kind in settings.kinds}
    for kind, job in jobs.items():
        check_settings(experiment.workdir / settings.output / kind, job.determined_by)
    for kind, job in jobs.items():
        _train_and_test(experiment, kind, job, train, test, times)
        noisy_classifier_result.write(experiment.workdir, settings.output, kind)


def _train_and_test(experiment, kind, job, train, test, times) -> None:
    settings = experiment.settings
    output = f"{settings.noisy_classifier.output}/{kind}"
    folder = experiment.workdir / output
    training = job.training
    name = training.classifier.name
    shape = training.input_shape(job.fixed, train.image_shape)
    try:
        count = training.classifier.parameter_count(shape)
    except UserError as error:
        raise UserError(f"config.noisy_classifier.tap: {error}") from error
    if different_fields(folder, job.determined_by):  # of a training that diverged
        folders.clear(folder)
    folders.write_settings(folder, job.determined_by)
    logging.info(
        "noisy_classifier: %s, %.3f M trained parameters, %d steps",
        name,
        count / 1e6,
        training.steps,
    )
    state = training.fit(folder, job.fixed, train)
    accuracies = training.accuracies(
        state.params, job.fixed, test, [time.time for time in times]
    )
    curve = {
        "name": name,
        "parameters": count,
        "step": int(state.step),
        "times": [time.given for time in times],
        "noise_levels": [time.noise_level for time in times],
        "accuracies": accuracies,
        # Curves with the same of these can stand in one picture.
        "tested_on": {
            "data": test.name,
            "test_images": len(test),
            "class_count": len(test.class_names),
            "process": plain.of_chosen(settings, "process"),
            "time_convention": "noise level"
            if settings.noisy_classifier.test_noise_levels
            else "published",
            "noise": "one draw per image, the same at all times",
            "seed": settings.seed,
        },
        "trained_by": {
            "train_images": len(train),
            "batch_size": training.batch_size,
            "optimiser_steps": training.steps,
            "flip": training.flip,
            "crop": training.crop,
            **job.facts,
            # Of all runs, where there were interruptions.
            "seconds": round(
                sum(row["seconds"] for row in log.read_metrics(folder)), 1
            ),
        },
    }
    experiment.write_json(f"{output}/{noisy_classifier_result.CURVE}", curve)


def test_times(settings: NoisyClassifierSettings, process: Process) -> tuple[Time, ...]:
    """The times of the test: config.noisy_classifier's, or the published ones.

    Raises:
      UserError: as `times.resolve`.
    """
    return resolve(
        process,
        settings.test_times or process.test_times,
        settings.test_noise_levels,
        "config.noisy_classifier.test_times",
        "config.noisy_classifier.test_noise_levels",
    )


def check_sources(train: Source, test: Source) -> None:
    """Raises a UserError where nothing can be classified, or nothing tested."""
    data_source.check_classes(train, "config.noisy_classifier.train_count")
    if test.image_shape != train.image_shape:
        raise UserError(
            f"config.data: test images of {test.name} are {test.image_shape}, training "
            f"images {train.image_shape}"
        )


def choose_tap(experiment: Experiment, denoiser: Denoiser) -> tuple[str, str]:
    """Returns the tap that the head reads, and what chose it.

    config.noisy_classifier.tap; else the probe's choice on held-out images, where this
    workdir has a probe; else the published tap of a large UNet, or the middle one.

    Raises:
      UserError: there is no such tap.
    """
    taps = tuple(denoiser.network.tap_paths())
    given = experiment.settings.noisy_classifier.tap
    if given:
        if given not in taps:
            field = "config.noisy_classifier.tap"
            raise UserError(unknown(field, given, taps))
        return given, "config"
    try:
        probed = experiment.read_json("probe.json")["chosen"]["tap"]
    except (FileNotFoundError, ValueError, KeyError):
        probed = None
    if probed in taps:
        return probed, "probe.json"
    names = experiment.settings.names
    published = _PUBLISHED_TAPS.get(names["process"])
    if names["network"] == "unet" and len(taps) >= _MANY_TAPS and published:
        return published, "published"
    return taps[len(taps) // 2], "middle"


def check_settings(folder: pathlib.Path, wanted: Mapping[str, object]) -> None:
    """Raises a UserError where `folder` was trained with other settings.

    A training that diverged makes way for one with other settings.
    """
    different = different_fields(folder, wanted)
    if different and not folders.has_diverged(folder):
        field, (old, new) = next(iter(different.items()))
        if field == "data":
            raise UserError(
                f"config.data: {folder} was trained on other images; delete that "
                "folder to train anew, or name another config.noisy_classifier.output"
            )
        raise UserError(
            f"config.{field}: {folder} was trained with {old!r}, not {new!r}; delete "
            "that folder to train anew, or give the old value"
        )


def different_fields(
    folder: pathlib.Path, wanted: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """Name -> what `folder` was trained with and what is wanted, where they differ."""
    found = folders.find_settings(folder)
    if found is None:
        return {}
    as_json = json.loads(json.dumps(dict(wanted)))
    return {
        field: (found.get(field), value)
        for field, value in as_json.items()
        if field not in found or found[field] != value
    }


def _features(experiment, train, mesh) -> Assignment:
    trained = experiment.trained()
    trained.check_images(train)
    tap, chosen_by = choose_tap(experiment, trained.denoiser)
    recipe = experiment.settings.noisy_classifier.features
    schedule = CosineAfterWarmup(
        recipe.learning_rate, recipe.epochs, 0, recipe.batch_size, len(train)
    )
    classifier = NoisyClassifier(
        f"MLP on {tap}",
        NoisyMLP(len(train.class_names)),
        trained.denoiser.process,
        trained.encoder((tap,)),
    )
    facts = {
        "tap": tap,
        "tap_chosen_by": chosen_by,
        "weights": "EMA",
        "checkpoint_step": trained.step,
        "latents": trained.latents is not None,
        "optimiser": "Adam",
        "learning_rate": recipe.learning_rate,
        "schedule": "cosine per epoch to 0",
        "epochs": recipe.epochs,
    }
    determined_by = {
        **weights_follow_from(experiment, "features", train, ("network.", "process.")),
        "checkpoint.step": trained.step,
        "noisy_classifier.tap": tap,
        # A pre-training that began anew has other weights at the same step.
        "checkpoint.weights": trained.identity((tap,)),
    }
    optimizer = Adam(schedule, clip_norm=None)
    training = _training(
        experiment, "features", classifier, optimizer, mesh, len(train)
    )
    return Assignment(training, trained.variables, facts, determined_by)


def _wide_resnet(experiment, train, mesh) -> Assignment:
    recipe = experiment.settings.noisy_classifier.wide_resnet
    try:
        dtype, classes = experiment.settings.dtype, len(train.class_names)
        network = WideResNet(classes, recipe.depth, recipe.widen, dtype)
    except UserError as error:
        raise UserError(f"config.noisy_classifier.wide_resnet: {error}") from error
    classifier = NoisyClassifier(network.title, network, experiment.settings.process)
    schedule = CosineAfterWarmup(
        recipe.learning_rate,
        recipe.epochs,
        recipe.warmup_epochs,
        recipe.batch_size,
        len(train),
    )
    optimizer = SGD(schedule, recipe.momentum, recipe.weight_decay, network)
    facts = {
        "depth": recipe.depth,
        "widen": recipe.widen,
        "optimiser": f"SGD, momentum {recipe.momentum:g}",
        "weight_decay": recipe.weight_decay,
        "learning_rate": recipe.learning_rate,
        "schedule": f"{recipe.warmup_epochs} warm-up epochs, cosine per epoch to 0",
        "epochs": recipe.epochs,
    }
    determined_by = weights_follow_from(experiment, "wide_resnet", train, ("process.",))
    training = _training(
        experiment, "wide_resnet", classifier, optimizer, mesh, len(train)
    )
    return Assignment(training, {}, facts, determined_by)


_MAKERS = {"features": _features, "wide_resnet": _wide_resnet}


def weights_follow_from(experiment, kind, train, prefixes) -> dict[str, object]:
    """The config fields and images that the weights follow from, as JSON has them."""
    prefixes += (f"noisy_classifier.{kind}.",)
    names = ("seed", "dtype", "data.image_size", "data.channels")
    flat = plain.flatten(plain.of_settings(experiment.settings))
    flip, crop = _augmentation(experiment)
    return {
        **{k: v for k, v in flat.items() if k in names or k.startswith(prefixes)},
        "noisy_classifier.train_count": len(train),
        "data": of_source(train),
        "noisy_classifier.flip": flip,
        "noisy_classifier.crop": crop,
    }


def _augmentation(experiment) -> tuple[bool, int]:
    settings, probe = experiment.settings.noisy_classifier, experiment.settings.probe
    flip = probe.flip if settings.flip is None else settings.flip
    crop = probe.crop if settings.crop is None else settings.crop
    if crop < 0:
        raise UserError(f"config.noisy_classifier.crop: {crop} is not 0 or more")
    return flip, crop


def _training(experiment, kind, classifier, optimizer, mesh: Mesh, count) -> Training:
    settings = experiment.settings.noisy_classifier
    recipe = getattr(settings, kind)
    field = f"config.noisy_classifier.{kind}"
    parallel.check_batch_size(f"{field}.batch_size", recipe.batch_size, mesh)
    flip, crop = _augmentation(experiment)
    return Training(
        classifier,
        optimizer,
        mesh,
        # Every image is seen `epochs` times at least: the last batch runs over.
        steps=steps_of_epochs(recipe.epochs, count, recipe.batch_size),
        batch_size=recipe.batch_size,
        flip=flip,
        crop=crop,
        seed=experiment.settings.seed,
        learning_rate_field=f"{field}.learning_rate",
        threads=experiment.settings.data.threads,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        steps_per_dispatch=settings.steps_per_dispatch,
    )
