"""Alignment and uniformity of every tap, over the checkpoints of a workdir."""

import dataclasses
import time as clock
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from ddae_jax.data import batches
from ddae_jax.data import source as data_source
from ddae_jax.diffusion.times import Time
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import encode_batches
from ddae_jax.metrics.contrastive import AlignmentUniformity, Running
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint, log, parallel
from ddae_jax.tasks.probe.grid import resolve_times

_METRICS = ("alignment", "uniformity")
_NAMED = 8  # taps in a legend


def run(experiment: Experiment) -> None:
    """Compares the features of training images under two draws of noise.

    Images are not augmented. Uniformity depends on config.contrastive.batch_size, the
    images of which all pairs are taken: DDAE's figures are for 128 a GPU.

    Writes contrastive.json (every tap, time and step), contrastive.txt and
    contrastive.png.

    Raises:
      UserError: no checkpoint, or not the named ones; an unknown tap; a time that the
        process does not have; too few images.
    """
    started = clock.monotonic()
    settings = experiment.settings.contrastive
    steps = checkpoint.choose_steps(
        experiment.workdir, settings.steps, "config.contrastive.steps"
    )
    train = experiment.source("train")
    count = min(settings.count or len(train), len(train))
    if count < 2:
        raise UserError(f"config.contrastive.count: {count} image has no pairs")
    # Image folders are in the order of their classes: batches shall mix them.
    shuffled = batches.Order(experiment.settings.seed, len(train)).indices(
        np.arange(count)
    )
    train = data_source.subset(train, shuffled)
    progress = log.Progress("contrastive", len(steps))
    cells = []
    for done, step in enumerate(steps, 1):
        cells += measure(experiment, step, train)
        progress.report(done, f"step {step}")
    progress.close()
    last = [cell for cell in cells if cell["step"] == steps[-1]]
    outcome.write(
        experiment.workdir,
        settings.output,
        outcome.Outcome(
            title="Alignment and uniformity",
            summary=_summary(last),
            facts={"step": steps[-1], "steps": steps, "cells": cells},
            protocol={
                "data": f"{train.name}, training images without augmentation",
                "images": count,
                "batch_size": settings.batch_size,
                "views": "two draws of noise; features pooled and of length 1",
                "weights": "EMA",
                "seed": experiment.settings.seed,
                "seconds": round(clock.monotonic() - started, 1),
            },
            headers=("tap", "noise level", *_METRICS),
            rows=[
                (cell["tap"], cell["noise_level"], *(cell[name] for name in _METRICS))
                for cell in last
            ],
            pictures=_pictures(cells, steps),
            note="Lower is better in both. Uniformity depends on the batch size.",
        ),
    )


def measure(experiment: Experiment, step: int, train: data_source.Source) -> list[dict]:
    """Both metrics of every tap and time at one checkpoint."""
    settings = experiment.settings.contrastive
    trained = experiment.trained(step)
    parallel.check_batch_size(
        "config.contrastive.forward_batch_size",
        settings.forward_batch_size,
        trained.mesh,
    )
    trained.check_images(train)
    process = trained.denoiser.process
    times = resolve_times(settings, process, process.contrastive_times, "contrastive")
    paths = trained.denoiser.network.tap_paths()
    taps = tuple(tap for tap in paths if not settings.taps or tap in settings.taps)
    logging.info("contrastive: step %d, %d taps, %d times", step, len(taps), len(times))
    encode = trained.encoder(taps)
    views = [
        encode_batches(
            [(encode, time.time) for time in times],
            trained.variables,
            trained.mesh,
            train,
            experiment.stream(name),
            settings.forward_batch_size,
        )
        for name in ("contrastive/first", "contrastive/second")
    ]
    running = [{tap: Running(settings.batch_size) for tap in taps} for _ in times]
    for (_, one), (_, other) in zip(*views, strict=True):
        for cells, x, y in zip(running, one, other, strict=True):
            for tap in taps:
                cells[tap].add(x[tap], y[tap])
    return [
        _cell(step, tap, time, cells[tap].result())
        for time, cells in zip(times, running, strict=True)
        for tap in taps
    ]


def _cell(step: int, tap: str, time: Time, found: AlignmentUniformity) -> dict:
    return {"step": step, "tap": tap, **dataclasses.asdict(time)} | {
        name: getattr(found, name) for name in _METRICS
    }


def _summary(cells: Sequence[Mapping]) -> str:
    best = min(cells, key=lambda cell: cell["alignment"] + cell["uniformity"])
    return (
        f"step {best['step']}: lowest sum at {best['tap']}, noise level "
        f"{best['noise_level']:.3g}: alignment {best['alignment']:.4g}, uniformity "
        f"{best['uniformity']:.4g}"
    )


def _pictures(cells: Sequence[Mapping], steps: Sequence[int]) -> list[outcome.Picture]:
    levels = list(dict.fromkeys(cell["noise_level"] for cell in cells))
    pictures = []
    for level in levels:
        at_level = [cell for cell in cells if cell["noise_level"] == level]
        where = f"at noise level {level:.3g}"
        if len(steps) > 1:
            figure = _over_steps(at_level)
            caption = f"Alignment and uniformity over training {where}"
        else:
            figure = _over_taps(at_level)
            caption = f"Alignment and uniformity by tap {where}, step {steps[0]}"
        pictures.append(outcome.Picture(caption, figure))
    return pictures


def _over_steps(cells: Sequence[Mapping]) -> Figure:
    """A line for each tap, its colour by depth."""
    figure, axes = curves.new_figure(panels=2)
    taps = list(dict.fromkeys(cell["tap"] for cell in cells))
    # Colours are ordered: of many taps, some names are enough.
    named = np.linspace(0, len(taps) - 1, min(len(taps), _NAMED)).round()
    for axis, name in zip(axes, _METRICS, strict=True):
        for position, tap in enumerate(taps):
            points = [(c["step"], c[name]) for c in cells if c["tap"] == tap]
            axis.plot(
                *zip(*points, strict=True),
                "o-",
                markersize=3,
                color=curves.shade(position, len(taps)),
                label=tap if position in named else None,
            )
        axis.set_ylabel(name)
    axes[-1].set_xlabel("optimiser step")
    curves.legend(axes[0])
    return figure


def _over_taps(cells: Sequence[Mapping]) -> Figure:
    figure, axes = curves.new_figure(panels=2)
    taps = [cell["tap"] for cell in cells]
    for axis, name, colour in zip(axes, _METRICS, curves.COLOURS, strict=False):
        axis.plot(taps, [cell[name] for cell in cells], "o-", color=colour)
        axis.set_ylabel(name)
    axes[-1].tick_params(axis="x", labelrotation=90)
    return figure
