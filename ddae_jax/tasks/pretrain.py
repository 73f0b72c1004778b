"""Trains a denoiser by diffusion on images without labels."""

import jax
from absl import logging
from clu import parameter_overview

from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, memory
from ddae_jax.report import pictures
from ddae_jax.runtime import checkpoint, parallel
from ddae_jax.tasks import sample
from ddae_jax.train import loop
from ddae_jax.train.feed import Feed
from ddae_jax.train.plan import Every, Hook, Measured, Plan
from ddae_jax.train.step import Pretraining


def run(experiment: Experiment) -> None:
    """Trains to config.train.steps, from the latest checkpoint of `workdir` on."""
    train = experiment.settings.train
    mesh = experiment.mesh
    parallel.check_batch_size("config.train.batch_size", train.batch_size, mesh)
    if train.batch_size % (mesh.size * train.accumulate):
        raise UserError(
            f"config.train.accumulate: a batch of {train.batch_size} cannot be split "
            f"into {train.accumulate} parts over {mesh.size} device(s)"
        )
    source = experiment.source("train")
    experiment.describe_data(source)
    channels = experiment.settings.network.image_channels
    if channels not in (None, source.image_shape[-1]):
        raise UserError(
            f"config.network.image_channels: {channels}, but the images of "
            f"{source.name} have {source.image_shape[-1]}; set it, or "
            "config.data.channels to convert them"
        )
    recipe = experiment.train_step(len(source.class_names))
    try:
        shapes = recipe.denoiser.parameter_shapes(source.image_shape)
    except (TypeError, ValueError) as error:
        shape, reason = source.image_shape, str(error).split("\n")[0]
        raise UserError(
            f"config.network: not for images of {shape}: {reason}"
        ) from error
    part = train.batch_size // train.accumulate
    memory.check_training(recipe.denoiser, source.image_shape, part)
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(
            shapes, include_stats=False
        )
        (experiment.workdir / "parameters.txt").write_text(overview + "\n")
    logging.info(
        "%s: %d images of %s; %s with %.2f M parameters on %d device(s)",
        source.name,
        len(source),
        "x".join(map(str, source.image_shape)),
        experiment.settings.names["network"],
        recipe.denoiser.parameter_count(source.image_shape) / 1e6,
        mesh.size,
    )
    feed = Feed(
        source,
        train.batch_size,
        experiment.settings.seed,
        mesh,
        experiment.settings.data.threads,
    )
    plan = Plan(
        title="pretrain",
        steps=train.steps,
        batch_size=train.batch_size,
        steps_per_dispatch=train.steps_per_dispatch,
        log=Every(train.log_every),
        checkpoint=Every(train.checkpoint_every),
        keep=checkpoint.Keep(train.keep_latest, train.keep_every, train.keep_best),
        lower="train.learning_rate",
    )
    draw = sample.grid_function(
        experiment, recipe.denoiser, source.image_shape, len(source.class_names), mesh
    )

    def picture(state, step):
        image = draw(state.ema)
        if jax.process_index() == 0:
            pictures.write_png(
                experiment.workdir / "images" / f"step_{step:08d}.png", image
            )
        return Measured(pictures={"samples": image})

    hooks = (Hook(Every(train.sample_every), picture),) if train.sample_every else ()
    loop.fit(
        experiment.workdir, Pretraining(recipe, feed, train.accumulate), plan, hooks
    )
