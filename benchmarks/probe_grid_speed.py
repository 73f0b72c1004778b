"""The probe's grid of 12 taps x 3 times, beside a plain loop over its cells.

Both are our own code, the published protocol on random images: the grid as the task
probe does it, one forward pass a time for all taps; the loop a probe of every cell
alone, whose network ends at its tap.
"""

import argparse
import os
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import extraction_speed
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.features.encode import Encoder
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel
from ddae_jax.tasks.probe.adam import AdamProbe

TIMES = (1.0, 11.0, 21.0)
WANTED = 5.0  # times as fast as the loop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument(
        "--grid_channels", type=int, default=128, help="128: the 35.7 M UNet"
    )
    parser.add_argument("--grid_images", type=int, default=256)
    parser.add_argument("--grid_batch", type=int, default=32)
    parser.add_argument(
        "--grid_every", type=int, default=6, help="the loop runs each n-th cell; 1: all"
    )
    parser.add_argument(
        "--grid_rounds", type=int, default=1, help="turns of the grid and the loop"
    )


def run(arguments: argparse.Namespace) -> dict:
    """`measure` as the command line says."""
    return measure(
        arguments.grid_channels,
        arguments.grid_images,
        arguments.grid_batch,
        arguments.grid_every,
        arguments.grid_rounds,
    )


def measure(
    channels: int = 128,
    images: int = 256,
    batch_size: int = 32,
    every: int = 6,
    rounds: int = 1,
) -> dict:
    """Times one epoch of training and one pass of testing on the same images.

    Both run once before they are timed, so that compilation is not. The loop runs the
    cells 0, `every`, 2 `every`, ... of the 36 in the order tap by tap, from the
    shallowest; its time is scaled to all of them. Cells of shallow taps are cheaper and
    come first, so that this rather flatters the loop.

    Returns:
      settings, seconds of the grid, of the cells that were run, and of the loop; the
      ratio of the latter and the first.
    """
    denoiser = Denoiser(UNet(channels=channels), DDPM())
    params = jax.jit(lambda key: denoiser.init(key, (32, 32, 3)))(jax.random.key(0))
    mesh = parallel.make_mesh()
    params = jax.device_put(params, parallel.replicated(mesh))
    taps = tuple(denoiser.network.tap_paths())
    cells = [(tap, point) for tap in taps for point in TIMES]
    chosen = cells[::every]
    source = extraction_speed.random_images(images)

    def probe(taps, times):
        """Seconds of one probe."""
        started = time.perf_counter()
        trainer = AdamProbe(
            Encoder(denoiser, taps), times, 10, epochs=1, batch_size=batch_size
        )
        held_out = np.arange(len(source)) % 10 == 0
        with tempfile.TemporaryDirectory() as folder:
            key = jax.random.key(1)
            _, heads = trainer.fit(folder, params, mesh, source, held_out, key, 0)
        trainer.accuracies(heads, params, mesh, source, jax.random.key(2))
        return time.perf_counter() - started

    def loop():
        """Seconds of the cells that are run, one after the other."""
        return [probe((tap,), (point,)) for tap, point in chosen]

    compiling = {"grid": probe(taps, TIMES), "loop": sum(loop())}
    grids, loops = [], []
    for _ in range(rounds):
        grids.append(probe(taps, TIMES))
        alone = loop()
        loops.append(sum(alone) * len(cells) / len(chosen))
    grid, looped = statistics.median(grids), statistics.median(loops)
    print(
        f"grid     {grid:9.2f} s; loop {looped:9.2f} s "
        f"(from {len(chosen)} of {len(cells)} cells); ratio {looped / grid:.2f}",
        flush=True,
    )
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "parameters": denoiser.parameter_count((32, 32, 3)),
        "images": images,
        "batch_size": batch_size,
        "epochs": 1,
        "taps": len(taps),
        "times": list(TIMES),
        "cells_run": [f"{tap} at {point:g}" for tap, point in chosen],
        "seconds_of_cells": alone,
        "grid_seconds": grid,
        "loop_seconds": looped,
        "ratio": looped / grid,
        "wanted_ratio": WANTED,
        "seconds_with_compilation": compiling,
    }
