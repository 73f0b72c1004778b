"""Strips of images: the way to a sample, and from one sample to another."""

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from ddae_jax import generate
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.report import grids
from ddae_jax.runtime import parallel, processes
from ddae_jax.tasks.sample.draw import configured_draw, sample_labels

Strips = UInt8[np.ndarray, "rows frames height width channels"]


def write(experiment: Experiment, trained: Trained) -> None:
    """Writes trajectory.png and interpolation.png, where they are asked for.

    A strip of an earlier call that is not asked for any more goes.
    """
    settings = experiment.settings.sample
    for name, count, strips in (
        ("trajectory", settings.trajectories, trajectories),
        ("interpolation", settings.interpolations, interpolations),
    ):
        path = experiment.workdir / f"{name}.png"
        classes = experiment.class_count
        images = strips(experiment, trained, count, classes) if count else None

        def note(path=path, images=images):
            if images is None:
                path.unlink(missing_ok=True)
            else:
                grids.write_png(path, grids.rows(images))

        processes.on_first(note)


def trajectories(
    experiment: Experiment, trained: Trained, count: int, class_count: int
) -> Strips:
    """The x0 estimates on the way to the first `count` samples, a sample a row."""
    mesh = trained.mesh
    indices = np.arange(_whole(count, trained), dtype=np.int32)
    labels = sample_labels(experiment, indices, class_count)
    split = parallel.batch_sharding(mesh)
    images = generate.trajectory(
        _generator(experiment, trained),
        trained.variables,
        experiment.stream("sample/noise"),
        parallel.place(indices, split),
        None if labels is None else parallel.place(labels, split),
        frames=experiment.settings.sample.frames,
        sharding=parallel.batch_sharding(mesh, axis=1),
    )
    return rearrange(parallel.on_host(images), "f b ... -> b f ...")[:count]


def interpolations(
    experiment: Experiment, trained: Trained, count: int, class_count: int
) -> Strips:
    """Between samples 0 and 1, 2 and 3, ...: `count` rows, the class of their first."""
    frames = experiment.settings.sample.frames
    first = np.repeat(2 * np.arange(count, dtype=np.int32), frames)
    first = np.pad(first, (0, _whole(len(first), trained) - len(first)))
    fractions = np.resize(np.linspace(0, 1, frames), len(first)).astype(np.float32)
    labels = sample_labels(experiment, first, class_count)
    split = parallel.batch_sharding(trained.mesh)
    images = generate.between(
        _generator(experiment, trained),
        trained.variables,
        experiment.stream("sample/noise"),
        parallel.place(
            np.stack([first, first + 1]),
            parallel.batch_sharding(trained.mesh, axis=1),
        ),
        parallel.place(fractions, split),
        None if labels is None else parallel.place(labels, split),
        sharding=split,
    )
    images = parallel.on_host(images)[: count * frames]
    return rearrange(images, "(b f) ... -> b f ...", f=frames)


def _generator(experiment: Experiment, trained: Trained) -> generate.Generator:
    return configured_draw(
        experiment, trained.denoiser, trained.image_shape, trained.latents
    )


def _whole(count: int, trained: Trained) -> int:
    """`count` and as many more as the devices need to have equal parts."""
    parts = parallel.batch_parts(trained.mesh)
    return -(-count // parts) * parts
