"""Draws images from a trained denoiser: a grid, samples.npz and, on request, PNGs."""

import shutil
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, autoencoder
from ddae_jax.features.latents import Latents
from ddae_jax.generate import generate
from ddae_jax.report import grids
from ddae_jax.runtime import log, parallel, processes
from ddae_jax.runtime.files import replacing
from ddae_jax.tasks.sample import paths
from ddae_jax.tasks.sample.draw import configured_draw, sample_labels


def batches(
    experiment: Experiment,
    denoiser: Denoiser,
    params: dict,
    image_shape: tuple[int, int, int],
    class_count: int,
    mesh: Mesh,
    count: int,
    latents: Latents | None = None,
) -> Iterator[np.ndarray]:
    """Yields samples 0 to `count` - 1 in batches of uint8 images.

    Args:
      params: of the denoiser; with `latents`, `Trained.variables`.
      image_shape: of what the denoiser takes.
      latents: of a denoiser of latents: its samples are decoded.

    Raises:
      UserError: samples that are latents, and nothing to decode them.
    """
    if latents is None and image_shape[-1] > 3:
        raise UserError(autoencoder.MISSING.format(channels=image_shape[-1]))
    size = experiment.settings.sample.batch_size
    parallel.check_batch_size("config.sample.batch_size", size, mesh)
    split = parallel.batch_sharding(mesh)
    generator = configured_draw(experiment, denoiser, image_shape, latents)
    key = experiment.stream("sample/noise")
    for start in range(0, count, size):
        indices = np.arange(start, start + size, dtype=np.int32)
        labels = sample_labels(experiment, indices, class_count)
        placed = None if labels is None else parallel.place(labels, split)
        placed_indices = parallel.place(indices, split)
        images = generate(generator, params, key, placed_indices, placed, split)
        yield parallel.on_host(images)[: count - start]


def grid_function(
    experiment: Experiment,
    denoiser: Denoiser,
    image_shape: tuple[int, int, int],
    class_count: int,
    mesh: Mesh,
) -> Callable[[dict], np.ndarray]:
    """Returns params -> grid of config.sample.grid samples, compiled once.

    Raises:
      UserError: samples that are latents, and nothing to decode them.
    """
    latents, weights = experiment.autoencoder(image_shape)
    if latents is None and image_shape[-1] > 3:
        raise UserError(autoencoder.MISSING.format(channels=image_shape[-1]))
    if latents is not None:
        weights = jax.device_put(weights, parallel.replicated(mesh))
    parts = parallel.batch_parts(mesh)
    count = max(-(-experiment.settings.sample.grid // parts), 1) * parts
    split = parallel.batch_sharding(mesh)
    generator = configured_draw(experiment, denoiser, image_shape, latents)
    key = experiment.stream("sample/noise")
    indices = np.arange(count, dtype=np.int32)
    labels = sample_labels(experiment, indices, class_count)
    placed = None if labels is None else parallel.place(labels, split)
    indices = parallel.place(indices, split)
    whole = parallel.replicated(mesh)

    def grid(params):
        if latents is not None:
            params = {"denoiser": params, "autoencoder": weights}
        images = generate(generator, params, key, indices, placed, whole)
        return grids.grid(np.asarray(images))

    return grid


def run(experiment: Experiment) -> None:
    """Writes samples.npz (arr_0), samples.png and, if asked, samples/000000.png ...

    If asked, too: trajectory.png and interpolation.png.
    """
    trained = experiment.trained()
    count = experiment.settings.sample.count
    progress = log.Progress("sample", count)
    parts, done = [], 0
    folder, unfinished = (
        experiment.workdir / "samples",
        experiment.workdir / "samples.part",
    )
    writes_files = jax.process_index() == 0 and experiment.settings.sample.png_folder
    if writes_files:
        shutil.rmtree(unfinished, ignore_errors=True)
    for images in batches(
        experiment,
        trained.denoiser,
        trained.variables,
        trained.image_shape,
        experiment.class_count,
        trained.mesh,
        count,
        trained.latents,
    ):
        if writes_files:
            for i, image in enumerate(images):
                grids.write_png(unfinished / f"{done + i:06d}.png", image)
        parts.append(images)
        done += len(images)
        if len(parts) == 1:
            progress.begin(done)  # the first batch compiles
        else:
            progress.tick(done, "samples")
    progress.close()
    images = np.concatenate(parts)

    def write():
        if writes_files:  # no image of an earlier call stays among them
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        archive = experiment.workdir / "samples.npz"
        with replacing(archive) as part, part.open("wb") as file:
            np.savez(file, arr_0=images)
        grid = grids.grid(images[: max(experiment.settings.sample.grid, 1)])
        grids.write_png(experiment.workdir / "samples.png", grid)
        logging.info("%d samples in %s", count, archive)

    processes.on_first(write)
    paths.write(experiment, trained)
