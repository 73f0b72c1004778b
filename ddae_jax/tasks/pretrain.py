"""Trains a denoiser by diffusion on images without labels."""

import pathlib

import jax
from absl import logging
from clu import parameter_overview
from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.experiment import common, memory
from ddae_jax.runtime import checkpoint, parallel
from ddae_jax.tasks import sample
from ddae_jax.train import loop
from ddae_jax.train.feed import Feed


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains to config.train.steps, from the latest checkpoint of `workdir` on."""
    train = config.train
    mesh = parallel.make_mesh(config.mesh.fsdp)
    parallel.check_batch_size("config.train.batch_size", train.batch_size, mesh)
    sample.check_sampler(config)
    source = common.load_source(config, "train")
    common.write_json(
        workdir,
        "data.json",
        {
            "name": source.name,
            "train_images": len(source),
            "image_shape": list(source.image_shape),
            "class_count": len(source.class_names),
            "class_names": list(source.class_names),
        },
    )
    channels = config.network.image_channels
    if channels not in (None, source.image_shape[-1]):
        raise UserError(
            f"config.network.image_channels: {channels}, but the images of "
            f"{source.name} have {source.image_shape[-1]}; set it, or "
            "config.data.channels to convert them"
        )
    recipe = common.train_step(config, len(source.class_names))
    try:
        shapes = recipe.denoiser.parameter_shapes(source.image_shape)
    except (TypeError, ValueError) as error:
        shape, reason = source.image_shape, str(error).split("\n")[0]
        raise UserError(
            f"config.network: not for images of {shape}: {reason}"
        ) from error
    memory.check_training(recipe.denoiser, source.image_shape, train.batch_size)
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(
            shapes, include_stats=False
        )
        (workdir / "parameters.txt").write_text(overview + "\n")
    logging.info(
        "%s: %d images of %s; %s with %.2f M parameters on %d device(s)",
        source.name,
        len(source),
        "x".join(map(str, source.image_shape)),
        config.network.name,
        recipe.denoiser.parameter_count(source.image_shape) / 1e6,
        mesh.size,
    )
    feed = Feed(source, train.batch_size, config.seed, mesh, config.data.threads)
    plan = loop.Plan(
        steps=train.steps,
        steps_per_dispatch=train.steps_per_dispatch,
        log_every=train.log_every,
        checkpoint_every=train.checkpoint_every,
        sample_every=train.sample_every,
        keep=checkpoint.Keep(train.keep_latest, train.keep_every, train.keep_best),
    )
    draw = sample.grid_function(
        config, recipe.denoiser, source.image_shape, len(source.class_names), mesh
    )

    def picture(state):
        image = draw(state.ema)
        if jax.process_index() == 0:
            sample.write_png(
                workdir / "images" / f"step_{int(state.step):08d}.png", image
            )
        return image

    loop.train(workdir, recipe, feed, plan, picture if train.sample_every else None)
