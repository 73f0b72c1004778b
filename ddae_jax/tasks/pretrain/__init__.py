"""Trains a denoiser by diffusion on images without labels."""

import contextlib
import functools

import numpy as np
from absl import logging
from clu import parameter_overview

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, memory
from ddae_jax.report import grids
from ddae_jax.runtime import checkpoint, parallel, processes, wandb_log
from ddae_jax.tasks import sample
from ddae_jax.tasks.pretrain import overhead, source_search, start, targets, watch
from ddae_jax.train import loop, profile
from ddae_jax.train.objectives.base import Setup
from ddae_jax.train.plan import Every, Hook, Measured, Plan
from ddae_jax.train.pretraining import Pretraining
from ddae_jax.train.step import TrainStep


def run(experiment: Experiment) -> Experiment:
    """Trains to config.train.steps, from the latest checkpoint of `workdir` on.

    Returns the experiment with what was chosen on the way: the source of
    self-conditioning.
    """
    train = experiment.settings.train
    wandb_log.check(train.wandb)
    source = experiment.source("train")
    _check_settings(experiment, source)
    first = not checkpoint.has_any(experiment.workdir)
    experiment.describe_data(source, started_from={} if first else None)
    if source_search.is_wanted(experiment):
        # What cannot be trained is said before the search.
        candidate = source_search.candidates(experiment)[0]
        _beside(candidate, source)
        _check_network(candidate, source)
        experiment = source_search.resolved(experiment, source)
    begin = None
    if train.start_from and first:
        begin = start.find(experiment, source.image_shape)
        experiment.describe_data(source, started_from=begin.facts)
    beside = _beside(experiment, source)
    targets.check_same(experiment, beside, first)
    recipe = experiment.train_step(len(source.class_names))
    _describe_network(experiment, recipe, source)
    plan = Plan(
        title="pretrain",
        steps=train.steps,
        batch_size=train.batch_size,
        steps_per_dispatch=train.steps_per_dispatch,
        log=Every(train.log_every),
        checkpoint=Every(train.checkpoint_every),
        keep=checkpoint.Keep(train.keep_latest, train.keep_every, train.keep_best),
        wandb=train.wandb,
        lower="train.learning_rate",
    )
    hooks = tuple(
        watch.hook(experiment, name, watched, source)
        for name, objective in experiment.objectives
        if (watched := objective.watch(experiment.denoiser)) is not None
    )
    if train.sample_every:
        hooks += (_pictures(experiment, recipe, source),)
    feed = experiment.feed(source, beside)
    trainer = Pretraining(recipe, feed, train.accumulate, begin)
    with _profiled(experiment, trainer) as trainer:
        loop.fit(experiment.workdir, trainer, plan, hooks)
    return experiment


def _profiled(experiment: Experiment, trainer: Pretraining):
    """The trainer, of which some steps are traced where the settings say so."""
    steps = experiment.settings.profile.steps
    if not steps:
        return contextlib.nullcontext(trainer)
    return profile.Profiled(trainer, experiment.workdir, steps)


def _check_settings(experiment: Experiment, source: Source) -> None:
    """Raises a UserError where batch or images do not go with devices and network."""
    train, mesh = experiment.settings.train, experiment.mesh
    parallel.check_batch_size("config.train.batch_size", train.batch_size, mesh)
    parts = parallel.batch_parts(mesh)
    if train.batch_size % (parts * train.accumulate):
        raise UserError(
            f"config.train.accumulate: a batch of {train.batch_size} cannot be split "
            f"into {train.accumulate} parts over {parts} device(s)"
        )
    if experiment.settings.profile.steps and train.accumulate > 1:
        raise UserError(
            "config.profile.steps: a step is one program; not with "
            "config.train.accumulate"
        )
    channels = experiment.settings.network.image_channels
    if channels not in (None, source.image_shape[-1]):
        raise UserError(
            f"config.network.image_channels: {channels}, but the images of "
            f"{source.name} have {source.image_shape[-1]}; set it, or "
            "config.data.channels to convert them"
        )


def _beside(experiment: Experiment, source: Source) -> dict[str, np.ndarray]:
    """Arrays that belong to the images, of the terms beside the denoising loss.

    Raises:
      UserError: names the field of a term that this run cannot have.
    """
    train = experiment.settings.train
    setup = Setup(
        experiment.denoiser,
        source,
        train.class_conditional,
        train.label_dropout,
        train.augment_probability,
        functools.partial(targets.computed, experiment, source),
    )
    beside = {}
    for name, objective in experiment.objectives:
        where = f"config.objectives.{name}"
        if objective.compares_images and train.batch_size < 2:
            raise UserError(
                f"{where}.on: it compares images, and config.train.batch_size is 1"
            )
        if objective.compares_images and train.accumulate > 1:
            raise UserError(
                f"{where}.on: it compares the images of a whole batch, which "
                "config.train.accumulate would split"
            )
        try:
            objective.check(setup)
            arrays = objective.arrays(setup)
        except processes.FirstFailed:
            raise
        except UserError as error:
            raise UserError(f"{where}.{error}") from error
        beside |= {f"{name}/{key}": array for key, array in arrays.items()}
    return beside


def _check_network(experiment: Experiment, source: Source) -> dict:
    """Returns the shapes of the parameters.

    Raises:
      UserError: the network cannot take the images, or the training not the memory.
    """
    train, shape = experiment.settings.train, source.image_shape
    try:
        shapes = experiment.denoiser.parameter_shapes(shape)
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"config.network: not for images of {shape}: {reason}"
        ) from error
    part = train.batch_size // train.accumulate
    memory.check_training(experiment.denoiser, shape, part)
    return shapes


def _describe_network(
    experiment: Experiment, recipe: TrainStep, source: Source
) -> None:
    """Says what is trained, in the log and in parameters.txt; see `_check_network`."""
    shape, shapes = source.image_shape, _check_network(experiment, source)

    def write():
        overview = parameter_overview.get_parameter_overview(
            shapes, include_stats=False
        )
        (experiment.workdir / "parameters.txt").write_text(overview + "\n")

    processes.on_first(write)
    logging.info(
        "%s: %d images of %s; %s with %.2f M parameters on %d device(s)",
        source.name,
        len(source),
        "x".join(map(str, shape)),
        experiment.settings.names["network"],
        recipe.denoiser.parameter_count(shape) / 1e6,
        experiment.mesh.size,
    )
    rules = recipe.denoiser.network.partition_rules
    shardings = parallel.state_shardings(experiment.mesh, shapes, rules)
    held, repeated = parallel.bytes_per_device(shapes, shardings)
    if held > repeated:
        logging.info(
            "config.mesh: each device holds %.2f MB of the parameters; %.2f MB of it, "
            "too small or indivisible, are on all of them",
            held / 1e6,
            repeated / 1e6,
        )
    if line := overhead.of_self_conditioning(recipe.denoiser, shape):
        logging.info("%s", line)


def _pictures(experiment: Experiment, recipe: TrainStep, source: Source) -> Hook:
    """Draws a grid of samples now and then."""
    draw = sample.grid_function(
        experiment,
        recipe.denoiser,
        source.image_shape,
        len(source.class_names),
        experiment.mesh,
    )

    def picture(state, step):
        image = draw(state.ema)
        path = experiment.workdir / "images" / f"step_{step:08d}.png"
        processes.on_first(lambda: grids.write_png(path, image))
        return Measured(pictures={"samples": image})

    return Hook(Every(experiment.settings.train.sample_every), picture)
