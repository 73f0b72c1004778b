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

import jax
from absl import logging
from ml_collections import ConfigDict

from ddae_jax.data import label_fraction
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.diffusion.times import official
from ddae_jax.errors import UserError
from ddae_jax.experiment import cell as cells
from ddae_jax.experiment import common
from ddae_jax.experiment.cell import Cell
from ddae_jax.experiment.common import Trained
from ddae_jax.models import NETWORKS
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint, log, parallel
from ddae_jax.runtime.random import stream
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


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Fine-tunes the checkpoint, or the network at random weights.

    What is reported is measured on the test set after the last epoch: neither an epoch
    nor a setting is chosen by it.

    Raises:
      UserError: no checkpoint; data, tap or setting that do not fit; another run under
        the same config.finetune.output; a loss that is not finite.
    """
    workdir = pathlib.Path(workdir)
    settings = config.finetune
    finetune_saved.check_name(settings.output)
    train, test = _sources(config)
    trained = _start(config, workdir, train)
    parallel.check_batch_size(
        "config.finetune.batch_size", settings.batch_size, trained.mesh
    )
    for source in (train, test):
        common.check_images(trained, source)
    cell = _cell(config, workdir, trained)
    network = _regularised(config, trained.denoiser.network)
    denoiser = dataclasses.replace(trained.denoiser, network=network)
    classifier = Classifier(denoiser, cell.tap, cell.time.time, trained.latents)
    layers = depths.layer_depths(denoiser, trained.image_shape, cell.tap)
    folder = workdir / settings.output
    saved = finetune_saved.settings(config, trained, cell, train)
    finetune_saved.claim(folder, saved)
    feed = Feed(
        train, settings.batch_size, config.seed, trained.mesh, config.data.threads
    )
    state = _fit(config, folder, trained, classifier, layers, feed, test)
    finetune_saved.write(folder, parallel.on_host(state.ema))
    if jax.process_index() != 0:
        return
    rows = log.read_metrics(folder)
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
    protocol = _protocol(config, cell, train, test) | {
        # Of all runs, where there were interruptions.
        "seconds": round(sum(row["seconds"] for row in rows), 1)
    }
    shown = finetune_outcome.outcome_of(facts, protocol, workdir)
    outcome.write(workdir, settings.output, shown)


def _sources(config: ConfigDict) -> tuple[Source, Source]:
    """The labelled part of the training set, and the test set."""
    settings = config.finetune
    train = data_source.first(common.load_source(config, "train"), settings.train_count)
    test = data_source.first(common.load_source(config, "test"), settings.test_count)
    common.check_classes(train, "config.finetune.train_count")
    chosen = label_fraction.labelled_part(
        train.labels, settings.label_fraction, config.seed
    )
    return train if len(chosen) == len(train) else data_source.subset(
        train, chosen
    ), test


def _start(config: ConfigDict, workdir: pathlib.Path, train: Source) -> Trained:
    """The checkpoint, or random weights, for which no run need have been here."""
    if not config.finetune.from_scratch:
        return common.restore_ema(config, workdir)
    if not (workdir / "data.json").exists():
        content = {
            "name": train.name,
            "train_images": len(train),
            "image_shape": list(train.image_shape),
            "class_count": len(train.class_names),
            "class_names": list(train.class_names),
        }
        common.write_json(workdir, "data.json", content)
    parallel.all_processes(True)  # what process 0 wrote is there for the others
    return common.untrained(config, workdir)


def _cell(config: ConfigDict, workdir: pathlib.Path, trained: Trained) -> Cell:
    """The tap and the time; config.finetune.time stands above the noise level."""
    cell = cells.choose(config, "finetune", workdir, trained.denoiser)
    given = config.finetune.time
    if given is None:
        return cell
    if config.finetune.noise_level:
        raise UserError(
            "config.finetune.time: give this or config.finetune.noise_level, not both"
        )
    time = official(trained.denoiser.process, given, "config.finetune.time")
    by_tap = cell.chosen_by.split(", ")[0]
    return dataclasses.replace(cell, time=time, chosen_by=f"{by_tap}, time: config")


def _regularised(config: ConfigDict, network):
    """The network with the drop path and the dropout of fine-tuning."""
    wanted = {
        "drop_path": config.finetune.drop_path or None,
        "dropout": config.finetune.dropout,
    }
    for field, value in wanted.items():
        if value is None:
            continue
        if field not in declared(type(network)):
            having = [name for name, cls in NETWORKS.items() if field in declared(cls)]
            raise UserError(
                f"config.finetune.{field}: {value}, but network {config.network.name} "
                f"has none; these have it: {', '.join(having)}"
            )
        if not 0 <= value < 1:
            raise UserError(f"config.finetune.{field}: {value} is not in [0, 1)")
        network = network.clone(**{field: value})
    return network


def _augmentation(config: ConfigDict) -> tuple[bool, int]:
    """Flip and crop: fine-tuning's own, or where there is none the probe's."""
    given = config.finetune
    flip = config.probe.flip if given.flip is None else given.flip
    return flip, config.probe.crop if given.crop is None else given.crop


def _fit(
    config: ConfigDict,
    folder: pathlib.Path,
    trained: Trained,
    classifier: Classifier,
    layers: dict[str, int],
    feed: Feed,
    test: Source,
) -> TrainState:
    settings = config.finetune
    marks = _marks(config, feed)
    steps = max(marks)
    network = classifiers.select(trained.params, tuple(layers))
    recipe = _recipe(config, classifier, layers, feed, steps)
    test_key = stream(config.seed, "finetune/test_noise")
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


def _marks(config: ConfigDict, feed: Feed) -> dict[int, int]:
    """Step -> epoch, of every measurement, ascending; the last is the end."""
    epochs, every = config.finetune.epochs, config.finetune.eval_every
    return {
        steps_of_epochs(epoch, len(feed.source), feed.batch_size): epoch
        for epoch in (*range(every, epochs, every), epochs)
    }


def _recipe(
    config: ConfigDict,
    classifier: Classifier,
    layers: dict[str, int],
    feed: Feed,
    steps: int,
) -> FinetuneStep:
    settings = config.finetune
    warmup = steps_of_epochs(settings.warmup_epochs, len(feed.source), feed.batch_size)
    optimizer = adamw(
        WarmupCosine(settings.learning_rate, warmup, steps),
        settings.weight_decay,
        settings.clip_norm,
        layer_factors(layers, _layer_decay(config)),
    )
    flip, crop = _augmentation(config)
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


def _layer_decay(config: ConfigDict) -> float:
    """There is nothing to preserve in random weights."""
    return 1.0 if config.finetune.from_scratch else config.finetune.layer_decay


def _protocol(config: ConfigDict, cell: Cell, train: Source, test: Source) -> dict:
    flip, crop = _augmentation(config)
    given = {
        name: value
        for name, value in config.finetune.to_dict().items()
        if name not in _SAID_OTHERWISE
    }
    return {
        **given,
        "train_images": len(train),
        "test_images": len(test),
        "tap_and_time": cell.chosen_by,
        "layer_decay": _layer_decay(config),
        "flip": flip,
        "crop": crop,
        "optimizer": "AdamW, linear warm-up, cosine per step to 0",
        "noise": "fresh every batch; in test one draw an image",
        "weights": "EMA after the last epoch",
        "seed": config.seed,
        "dtype": config.dtype,
    }
