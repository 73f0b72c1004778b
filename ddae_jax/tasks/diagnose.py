"""The denoising loss by noise level, and how many directions each tap's features fill.

Both need no labels: the first says what a change of training costs or gives the
denoiser, the second whether features condense or collapse.
"""

import time as clock

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import (
    clean_and_noise,
    encode_set,
    evaluation_inputs,
)
from ddae_jax.metrics.effective_rank import effective_rank
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime import compiler, log, parallel
from ddae_jax.settings.diagnose import DiagnoseSettings

Losses = list[tuple[float, float]]
"""Noise level and mean loss."""

Ranks = list[tuple[str, float, int]]
"""Tap, effective rank and width."""


def run(experiment: Experiment) -> None:
    """Measures the EMA weights of config.checkpoint.step.

    Writes diagnose.json, .txt and .png.

    Raises:
      UserError: no checkpoint, or test images of another shape.
    """
    started = clock.monotonic()
    settings = experiment.settings.diagnose
    trained = experiment.trained()
    test = data_source.first(experiment.source("test"), settings.count)
    trained.check_images(test)
    parallel.check_batch_size(
        "config.diagnose.batch_size", settings.batch_size, trained.mesh
    )
    losses = _losses(experiment, trained, test, settings)
    ranks = _ranks(experiment, trained, test, settings)
    rows = [("loss", f"sigma/alpha {level:g}", loss) for level, loss in losses]
    rows += [("effective rank", tap, rank) for tap, rank, _ in ranks]
    outcome.write(
        experiment.workdir,
        settings.output,
        outcome.Outcome(
            title="Denoising loss and spread of features",
            summary=_summary(trained.step, losses, ranks),
            facts={
                "step": trained.step,
                "losses": [{"noise_level": n, "loss": loss} for n, loss in losses],
                "ranks": [
                    {"tap": tap, "effective_rank": rank, "width": width}
                    for tap, rank, width in ranks
                ],
            },
            protocol={
                "data": f"{test.name}, {len(test)} test images without augmentation",
                "weights": "EMA",
                "noise level of features": settings.feature_noise,
                "seed": experiment.settings.seed,
                "seconds": round(clock.monotonic() - started, 1),
            },
            headers=("what", "where", "value"),
            rows=rows,
            pictures=[
                outcome.Picture("Denoising loss by noise level", _draw_losses(losses)),
                outcome.Picture("Effective rank by tap", _draw_ranks(ranks)),
            ],
            note="The loss is that of the process. The effective rank (Roy & Vetterli "
            "2007) is at most the width of the tap.",
        ),
    )


def _summary(step: int, losses: Losses, ranks: Ranks) -> str:
    values = [rank for _, rank, _ in ranks]
    return (
        f"step {step}: loss {np.mean([loss for _, loss in losses]):.4g} over "
        f"{len(losses)} noise levels, effective rank {min(values):.3g} to "
        f"{max(values):.3g}"
    )


def _losses(
    experiment: Experiment, trained: Trained, test: Source, settings: DiagnoseSettings
) -> Losses:
    """(noise level, mean loss): every image under one draw of noise at all levels."""
    key = experiment.stream("diagnose/noise")
    levels = jnp.asarray(settings.noise_levels, jnp.float32)
    times = trained.denoiser.process.time_at(levels)
    totals = np.zeros(len(levels))
    model = (trained.denoiser, trained.latents, trained.variables)
    shape = trained.encoder(()).noise_shape(test.image_shape)
    inputs = evaluation_inputs(test, trained.mesh, settings.batch_size)
    batches = ((i * settings.batch_size, one) for i, one in enumerate(inputs))
    for _, (images, _, indices, valid) in log.told("loss", len(test), batches):
        x0, noise = clean_and_noise(images, indices, key, shape)
        found = [_loss(*model, x0, noise, time, valid) for time in times]
        totals += np.stack(parallel.on_host(found))
    means = totals / len(test)
    return [
        (float(level), float(mean))
        for level, mean in zip(settings.noise_levels, means, strict=True)
    ]


@compiler.jit(static_argnames=("denoiser", "latents"))
def _loss(denoiser, latents, params, x0, noise, time, valid):
    """The sum over the valid images."""
    if latents is not None:
        of_posterior, noise = jnp.split(noise, 2, axis=-1)
        x0 = latents.encode(params["autoencoder"], x0, of_posterior)
        params = params["denoiser"]
    losses = denoiser.loss(params, x0, noise, jnp.broadcast_to(time, (len(x0),)))
    return jnp.where(valid, losses, 0).sum()


def _ranks(
    experiment: Experiment, trained: Trained, test: Source, settings: DiagnoseSettings
) -> Ranks:
    """(tap, effective rank, width), in order of depth."""
    process = trained.denoiser.process
    level = jnp.array([settings.feature_noise], jnp.float32)
    taps = tuple(trained.denoiser.network.tap_paths())
    (features,) = encode_set(
        trained.encoder(taps),
        trained.variables,
        trained.mesh,
        test,
        [float(process.time_at(level)[0])],
        experiment.stream("diagnose/features"),
        settings.batch_size,
    )
    return [
        (tap, effective_rank(values), values.shape[1])
        for tap, values in features.items()
    ]


def _draw_losses(losses: Losses) -> Figure:
    figure, (axis,) = curves.new_figure()
    axis.loglog(*zip(*losses, strict=True), "o-", color=curves.COLOURS[0])
    axis.set_xlabel("sigma/alpha")
    axis.set_ylabel("denoising loss")
    return figure


def _draw_ranks(ranks: Ranks) -> Figure:
    figure, (axis,) = curves.new_figure()
    names, values, _ = zip(*ranks, strict=True)
    axis.plot(names, values, "o-", color=curves.COLOURS[1])
    axis.set_ylabel("effective rank")
    axis.tick_params(axis="x", labelrotation=90)
    return figure
