"""Fine-tunes the network up to a tap, pooled, under a linear head, as a whole.

One flag apart from the probe: the same tap, noise and augmentation, but the gradient
goes through. What it leaves, OUTPUT being config.finetune.output:

    OUTPUT.json OUTPUT.txt OUTPUT.png   the result
    OUTPUT/settings.json                what it was trained with; tap, time, classes
    OUTPUT/model.safetensors            the EMA: network/PATH of the parameters that the
                                        tap depends on, head/kernel, head/bias
    OUTPUT/metrics.jsonl, events        one line a measurement
    OUTPUT/checkpoints                  to go on from after an interruption

`finetune_saved.load_finetuned` reads the weights back.
"""

import dataclasses
import pathlib

from absl import logging

from ddae_jax.data import label_fraction
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.diffusion.times import official
from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment
from ddae_jax.experiment import cell as cells
from ddae_jax.experiment.cell import TapAtTime
from ddae_jax.experiment.trained import Trained
from ddae_jax.models import NETWORKS
from ddae_jax.models.base import Network
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint, log, parallel, processes
from ddae_jax.settings import plain
from ddae_jax.settings.fields import declared
from ddae_jax.tasks.finetune import classifier as classifiers
from ddae_jax.tasks.finetune import depths
from ddae_jax.tasks.finetune import saved as finetune_saved
from ddae_jax.tasks.finetune import shown as finetune_outcome
from ddae_jax.tasks.finetune.classifier import Classifier
from ddae_jax.tasks.finetune.mixing import Mixing
from ddae_jax.tasks.finetune.step import (
    FinetuneStep,
    Finetuning,
    adamw,
    layer_factors,
)
from ddae_jax.train import loop
from ddae_jax.train.feed import Feed
from ddae_jax.train.optimizers import WarmupCosine
from ddae_jax.train.plan import At, Hook, Measured, Plan, steps_of_epochs
from ddae_jax.train.state import TrainState

_SAID_OTHERWISE = (
    "output",
    "tap",
    "time",
    "noise_level",
    "train_count",
    "test_count",
    "from_scratch",
    "steps_per_dispatch",
)


def run(experiment: Experiment) -> None:
    """Fine-tunes the checkpoint, or the network at random weights.

    What is reported is measured on the test set after the last epoch: neither an epoch
    nor a setting is chosen by it.

    Raises:
      UserError: no checkpoint; data, tap or setting that do not fit; another run under
        the same config.finetune.output; a loss that is not finite.
    """
    settings = experiment.settings.finetune
    finetune_saved.check_name(settings.output)
    train, test = _sources(experiment)
    trained = _start(experiment, train)
    parallel.check_batch_size(
        "config.finetune.batch_size", settings.batch_size, trained.mesh
    )
    for source in (train, test):
        trained.check_images(source)
    cell = _cell(experiment, trained)
    network = _regularised(experiment)
    denoiser = dataclasses.replace(trained.denoiser, network=network)
    classifier = Classifier(denoiser, cell.tap, cell.time.time, trained.latents)
    layers = depths.layer_depths(denoiser, trained.image_shape, cell.tap)
    folder = experiment.workdir / settings.output
    saved = finetune_saved.settings(experiment, trained, cell, train)
    finetune_saved.claim(folder, saved)
    feed = Feed(
        train,
        settings.batch_size,
        experiment.settings.seed,
        trained.mesh,
        experiment.settings.data.threads,
    )
    state = _fit(experiment, folder, trained, classifier, layers, feed, test)
    finetune_saved.write(folder, parallel.on_host(state.ema))
    rows = processes.on_first(lambda: log.read_metrics(folder))
    fixed = set(network.fixed_parameters)
    shapes = depths.parameter_shapes(denoiser, trained.image_shape)
    facts = {
        "step": trained.step,
        "data": train.name,
        "class_count": len(train.class_names),
        "from_scratch": settings.from_scratch,
        "test": rows[-1]["test_accuracy"],
        "test_raw": rows[-1]["test_accuracy_raw"],
        "tap": cell.tap,
        "time": cell.time.time,
        "noise_level": cell.time.noise_level,
        "trained_parameters": sum(shapes[path].size for path in set(layers) - fixed),
        "layers": max(layers.values()) + 1,
        "curve": rows,
    }
    protocol = _protocol(experiment, cell, train, test) | {
        # Of all runs, where there were interruptions.
        "seconds": round(sum(row["seconds"] for row in rows), 1)
    }
    shown = finetune_outcome.outcome_of(facts, protocol, experiment.workdir)
    outcome.write(experiment.workdir, settings.output, shown)


def _sources(experiment: Experiment) -> tuple[Source, Source]:
    """The labelled part of the training set, and the test set."""
    settings = experiment.settings.finetune
    train = data_source.first(experiment.source("train"), settings.train_count)
    test = data_source.first(experiment.source("test"), settings.test_count)
    data_source.check_classes(train, "config.finetune.train_count")
    chosen = label_fraction.labelled_part(
        train.labels, settings.label_fraction, experiment.settings.seed
    )
    if len(chosen) < len(train):
        train = data_source.subset(train, chosen)
    return train, test


def _start(experiment: Experiment, train: Source) -> Trained:
    """The checkpoint, or random weights, for which no run need have been here."""
    if not experiment.settings.finetune.from_scratch:
        return experiment.trained()
    if not processes.on_first((experiment.workdir / DATA).exists):
        experiment.describe_data(train)
    return experiment.untrained()


def _cell(experiment: Experiment, trained: Trained) -> TapAtTime:
    """The tap and the time; config.finetune.time stands above the noise level."""
    cell = cells.choose(experiment, "finetune", trained.denoiser)
    given = experiment.settings.finetune.time
    if given is None:
        return cell
    if experiment.settings.finetune.noise_level:
        raise UserError(
            "config.finetune.time: give this or config.finetune.noise_level, not both"
        )
    time = official(trained.denoiser.process, given, "config.finetune.time")
    by_tap = cell.chosen_by.split(", ")[0]
    return dataclasses.replace(cell, time=time, chosen_by=f"{by_tap}, time: config")


def _regularised(experiment: Experiment) -> Network:
    """The network with the drop path and the dropout of fine-tuning."""
    settings, network = experiment.settings.finetune, experiment.settings.network
    wanted = {"drop_path": settings.drop_path or None, "dropout": settings.dropout}
    for field, value in wanted.items():
        if value is None:
            continue
        if field not in declared(type(network)):
            having = [name for name, cls in NETWORKS.items() if field in declared(cls)]
            name = experiment.settings.names["network"]
            raise UserError(
                f"config.finetune.{field}: {value}, but network {name} "
                f"has none; these have it: {', '.join(having)}"
            )
        network = network.clone(**{field: value})
    return network


def _augmentation(experiment: Experiment) -> tuple[bool, int]:
    """Flip and crop: fine-tuning's own, or where there is none the probe's."""
    given, probe = experiment.settings.finetune, experiment.settings.probe
    flip = probe.flip if given.flip is None else given.flip
    return flip, probe.crop if given.crop is None else given.crop


def _fit(
    experiment: Experiment,
    folder: pathlib.Path,
    trained: Trained,
    classifier: Classifier,
    layers: dict[str, int],
    feed: Feed,
    test: Source,
) -> TrainState:
    settings = experiment.settings.finetune
    marks = _marks(experiment, feed)
    steps = max(marks)
    network = classifiers.select(trained.params, tuple(layers))
    recipe = _recipe(experiment, classifier, layers, feed, steps)
    test_key = experiment.stream("finetune/test_noise")
    accuracy = classifiers.accuracy_function(
        classifier, trained.autoencoder, test, feed.mesh, feed.batch_size, test_key
    )

    def measure(state, step):
        numbers = {
            "epoch": marks[step],
            "test_accuracy": accuracy(state.ema),
            "test_accuracy_raw": accuracy(state.params),
        }
        return Measured(numbers)

    when = At(tuple(marks))
    plan = Plan(
        title=settings.output,
        steps=steps,
        batch_size=feed.batch_size,
        steps_per_dispatch=settings.steps_per_dispatch,
        log=when,
        checkpoint=when,
        keep=checkpoint.Keep(latest=2, best=False),
        lower="config.finetune.learning_rate",
    )
    logging.info(
        "%s: %d of the network's parameter arrays reach %s; %d images, %d steps",
        settings.output,
        len(layers),
        classifier.tap,
        len(feed.source),
        steps,
    )
    trainer = Finetuning(recipe, feed, network, trained.autoencoder)
    return loop.fit(folder, trainer, plan, (Hook(when, measure),))


def _marks(experiment: Experiment, feed: Feed) -> dict[int, int]:
    """Step -> epoch, of every measurement, ascending; the last is the end."""
    settings = experiment.settings.finetune
    epochs, every = settings.epochs, settings.eval_every
    return {
        steps_of_epochs(epoch, len(feed.source), feed.batch_size): epoch
        for epoch in (*range(every, epochs, every), epochs)
    }


def _recipe(
    experiment: Experiment,
    classifier: Classifier,
    layers: dict[str, int],
    feed: Feed,
    steps: int,
) -> FinetuneStep:
    settings = experiment.settings.finetune
    warmup = steps_of_epochs(settings.warmup_epochs, len(feed.source), feed.batch_size)
    optimizer = adamw(
        WarmupCosine(settings.learning_rate, warmup, steps),
        settings.weight_decay,
        settings.clip_norm,
        layer_factors(layers, _layer_decay(experiment)),
    )
    flip, crop = _augmentation(experiment)
    return FinetuneStep(
        classifier,
        optimizer,
        len(feed.source.class_names),
        settings.ema_decay,
        flip,
        crop,
        Mixing(settings.mixup, settings.cutmix),
        settings.label_smoothing,
    )


def _layer_decay(experiment: Experiment) -> float:
    """There is nothing to preserve in random weights."""
    settings = experiment.settings.finetune
    return 1.0 if settings.from_scratch else settings.layer_decay


def _protocol(
    experiment: Experiment, cell: TapAtTime, train: Source, test: Source
) -> dict:
    flip, crop = _augmentation(experiment)
    given = {
        name: value
        for name, value in plain.of_section(experiment.settings.finetune).items()
        if name not in _SAID_OTHERWISE
    }
    return {
        **given,
        "train_images": len(train),
        "test_images": len(test),
        "tap_and_time": cell.chosen_by,
        "layer_decay": _layer_decay(experiment),
        "flip": flip,
        "crop": crop,
        "optimizer": "AdamW, linear warm-up, cosine per step to 0",
        "noise": "fresh every batch; in test one draw per image",
        "weights": "EMA after the last epoch",
        "seed": experiment.settings.seed,
        "dtype": experiment.settings.dtype,
    }
