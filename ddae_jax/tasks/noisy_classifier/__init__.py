"""Classifiers of noisy images: a head on frozen features, a network from scratch."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.times import Time
from ddae_jax.errors import UserError
from ddae_jax.experiment import common
from ddae_jax.features.cache import model_identity
from ddae_jax.heads.mlp import NoisyMLP
from ddae_jax.models.wideresnet import WideResNet
from ddae_jax.runtime import log, parallel
from ddae_jax.settings import schema
from ddae_jax.settings.fields import unknown
from ddae_jax.tasks.noisy_classifier import result as noisy_classifier_result
from ddae_jax.tasks.noisy_classifier.classifier import (
    SGD,
    CosineAfterWarmup,
    NoisyClassifier,
)
from ddae_jax.tasks.noisy_classifier.training import Training
from ddae_jax.tasks.probe.grid import resolve_times
from ddae_jax.train import folders
from ddae_jax.train.optimizers import Adam
from ddae_jax.train.plan import steps_of_epochs

# Of the UNet with 12 taps or more (reference/ddae.md).
_PUBLISHED_TAPS = {"ddpm": "out_6", "edm": "out_7"}
_MANY_TAPS = 12


@dataclasses.dataclass(frozen=True)
class Job:
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


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains config.noisy_classifier.kinds in turn, and tests each at all noise levels.

    Each kind goes on from its checkpoint in `workdir`/OUTPUT/KIND. After
    each, writes noisy_classifier.json, .txt and .png with the curves there are.

    Raises:
      UserError: no checkpoint (for "features"); a folder that was trained with other
        settings; a tap, time or noise level that does not exist; too few images or
        classes; a loss that is not finite.
    """
    workdir = pathlib.Path(workdir)
    settings = config.noisy_classifier
    if not settings.kinds:
        known = ", ".join(_MAKERS)
        raise UserError(f"config.noisy_classifier.kinds: empty; known: {known}")
    process = schema.process(config)
    times = test_times(settings, process)
    train = data_source.first(common.load_source(config, "train"), settings.train_count)
    test = data_source.first(common.load_source(config, "test"), settings.test_count)
    check_sources(train, test)
    mesh = parallel.make_mesh(config.mesh.fsdp)
    jobs = {
        kind: _MAKERS[kind](config, workdir, train, mesh) for kind in settings.kinds
    }
    for kind, job in jobs.items():
        check_settings(workdir / settings.output / kind, job.determined_by)
    for kind, job in jobs.items():
        _train_and_test(workdir, kind, job, train, test, times, config)
        noisy_classifier_result.write(workdir, settings.output, kind)


def _train_and_test(workdir, kind, job, train, test, times, config) -> None:
    folder = workdir / config.noisy_classifier.output / kind
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
            "process": dict(config.process),
            "time_convention": "noise level"
            if config.noisy_classifier.test_noise_levels
            else "published",
            "noise": "one draw an image, the same at all times",
            "seed": config.seed,
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
    common.write_json(folder, noisy_classifier_result.CURVE, curve)


def test_times(settings: ConfigDict, process: Process) -> tuple[Time, ...]:
    """The times of the test: config.noisy_classifier's, or the published ones.

    Raises:
      UserError: as `resolve_times`.
    """
    return resolve_times(
        settings, process, process.test_times, "noisy_classifier", prefix="test_"
    )


def check_sources(train: Source, test: Source) -> None:
    """Raises a UserError where nothing can be classified, or nothing tested."""
    common.check_classes(train, "config.noisy_classifier.train_count")
    if test.image_shape != train.image_shape:
        raise UserError(
            f"config.data: test images of {test.name} are {test.image_shape}, training "
            f"images {train.image_shape}"
        )


def choose_tap(
    config: ConfigDict, workdir: pathlib.Path, denoiser: Denoiser
) -> tuple[str, str]:
    """Returns the tap that the head reads, and what chose it.

    config.noisy_classifier.tap; else the probe's choice on held-out images, where this
    workdir has a probe; else the published tap of a large UNet, or the middle one.

    Raises:
      UserError: there is no such tap.
    """
    taps = tuple(denoiser.network.tap_paths())
    given = config.noisy_classifier.tap
    if given:
        if given not in taps:
            field = "config.noisy_classifier.tap"
            raise UserError(unknown(field, given, taps))
        return given, "config"
    try:
        probed = common.read_json(workdir, "probe.json")["chosen"]["tap"]
    except (FileNotFoundError, ValueError, KeyError):
        probed = None
    if probed in taps:
        return probed, "probe.json"
    published = _PUBLISHED_TAPS.get(config.process.name)
    if config.network.name == "unet" and len(taps) >= _MANY_TAPS and published:
        return published, "published"
    return taps[len(taps) // 2], "middle"


def check_settings(folder: pathlib.Path, wanted: Mapping[str, object]) -> None:
    """Raises a UserError where `folder` was trained with other settings.

    A training that diverged makes way for one with other settings.
    """
    different = different_fields(folder, wanted)
    if different and not folders.has_diverged(folder):
        field, (old, new) = next(iter(different.items()))
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


def _features(config, workdir, train, mesh) -> Job:
    trained = common.restore_ema(config, workdir)
    common.check_images(trained, train)
    tap, chosen_by = choose_tap(config, workdir, trained.denoiser)
    recipe = config.noisy_classifier.features
    schedule = CosineAfterWarmup(
        recipe.learning_rate, recipe.epochs, 0, recipe.batch_size, len(train)
    )
    classifier = NoisyClassifier(
        f"MLP on {tap}",
        NoisyMLP(len(train.class_names)),
        trained.denoiser.process,
        common.encoder(trained, (tap,)),
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
        **_determined(config, "features", train, ("network.", "process.")),
        "checkpoint.step": trained.step,
        "noisy_classifier.tap": tap,
        # A pre-training that began anew has other weights at the same step.
        "checkpoint.weights": model_identity(classifier.encode, trained.variables),
    }
    training = _training(
        config, "features", classifier, Adam(schedule, clip_norm=None), mesh, len(train)
    )
    return Job(training, trained.variables, facts, determined_by)


def _wide_resnet(config, workdir, train, mesh) -> Job:
    recipe = config.noisy_classifier.wide_resnet
    try:
        network = WideResNet(
            len(train.class_names), recipe.depth, recipe.widen, config.dtype
        )
    except UserError as error:
        raise UserError(f"config.noisy_classifier.wide_resnet: {error}") from error
    classifier = NoisyClassifier(network.title, network, schema.process(config))
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
    determined_by = _determined(config, "wide_resnet", train, ("process.",))
    training = _training(config, "wide_resnet", classifier, optimizer, mesh, len(train))
    return Job(training, {}, facts, determined_by)


_MAKERS = {"features": _features, "wide_resnet": _wide_resnet}


def _determined(config, kind, train, prefixes) -> dict[str, object]:
    """The config fields that the weights follow from, as JSON has them."""
    prefixes += (f"noisy_classifier.{kind}.",)
    names = ("seed", "dtype", "data.name", "data.image_size", "data.channels")
    flat = schema.flatten(config)
    flip, crop = _augmentation(config)
    return {
        **{k: v for k, v in flat.items() if k in names or k.startswith(prefixes)},
        "noisy_classifier.train_count": len(train),
        "noisy_classifier.flip": flip,
        "noisy_classifier.crop": crop,
    }


def _augmentation(config) -> tuple[bool, int]:
    settings, probe = config.noisy_classifier, config.probe
    flip = probe.flip if settings.flip is None else settings.flip
    crop = probe.crop if settings.crop is None else settings.crop
    if crop < 0:
        raise UserError(f"config.noisy_classifier.crop: {crop} is not 0 or more")
    return flip, crop


def _training(config, kind, classifier, optimizer, mesh: Mesh, count) -> Training:
    settings = config.noisy_classifier
    recipe = settings[kind]
    field = f"config.noisy_classifier.{kind}"
    parallel.check_batch_size(f"{field}.batch_size", recipe.batch_size, mesh)
    flip, crop = _augmentation(config)
    return Training(
        classifier,
        optimizer,
        mesh,
        # Every image is seen `epochs` times at least: the last batch runs over.
        steps=steps_of_epochs(recipe.epochs, count, recipe.batch_size),
        batch_size=recipe.batch_size,
        flip=flip,
        crop=crop,
        seed=config.seed,
        learning_rate_field=f"{field}.learning_rate",
        threads=config.data.threads,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        steps_per_dispatch=settings.steps_per_dispatch,
    )
