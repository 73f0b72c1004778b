"""Maps of taps: the principal components of each position as colours, and k-means."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ddae_jax.data import image_files, photos
from ddae_jax.data import images as image_ops
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import encode_set
from ddae_jax.features.windowed import encode_photos, needed_bytes
from ddae_jax.features.windows import Windows
from ddae_jax.heads import clusters
from ddae_jax.report import grids, pictures
from ddae_jax.report.outcome import Picture
from ddae_jax.runtime import memory, parallel
from ddae_jax.tasks.dense.job import Job, Part

_FIELD = "config.dense.images"


@dataclasses.dataclass(frozen=True, eq=False)
class _Mapped:
    """Images and their features.

    Attributes:
      images: uint8 (height, width, 1 or 3), as they are shown.
      names: of them.
      maps: tap -> float32 (rows, columns, channels) of each image.
      protocol: how the maps were made.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]
    maps: Mapping[str, Sequence[np.ndarray]]
    protocol: Mapping[str, Any]


def run(experiment: Experiment, job: Job) -> Part:
    """Draws a row for each image: itself, and two maps for each tap.

    Components and clusters are those of all images together, so that a colour means
    the same in every row.
    """
    settings, seed = experiment.settings.dense, experiment.settings.seed
    found = _of_files if settings.images else _of_test_set
    mapped = found(experiment, job)
    columns, rows, facts = [], [], {}
    for tap in job.taps:
        maps = mapped.maps[tap]
        colours, explained = clusters.principal_colours(maps, seed)
        try:
            labels, between = clusters.k_means(maps, settings.clusters, seed)
        except UserError as error:
            raise UserError(f"config.dense.clusters: tap {tap}: {error}") from error
        grids = [one.shape[:2] for one in maps]
        title = f"{tap}\n{_shown(grids)}"
        columns.append((f"{title}\nPCA", colours))
        columns.append((f"{title}\nk-means", [pictures.paint(one) for one in labels]))
        facts[tap] = {"explained_by_3": explained, "explained_by_clusters": between}
        rows.append((tap, "variance in 3 principal components", explained))
        rows.append((tap, f"variance between {settings.clusters} clusters", between))
        logging.info("dense: maps of %s are %s", tap, _shown(grids))
    count = len(mapped.images)
    return Part(
        summary=f"maps of {len(job.taps)} taps over {count} images",
        facts=facts,
        protocol={"images": count, "clusters": settings.clusters, **mapped.protocol},
        rows=rows,
        picture=Picture(
            f"Features per position at noise level {job.cell.time.noise_level:.3g}: "
            "the same colour means the same in all rows of a column",
            pictures.maps(mapped.images, mapped.names, columns),
        ),
    )


def _shown(grids: Sequence[tuple[int, int]]) -> str:
    """The rows and columns of maps, or of the largest."""
    rows, columns = max(grids, key=np.prod)
    return f"{'≤' if len(set(grids)) > 1 else ''}{rows}x{columns}"


def _of_test_set(experiment: Experiment, job: Job) -> _Mapped:
    """The first images of the test set, which the network takes as they are."""
    settings, trained = experiment.settings.dense, job.trained
    test = experiment.source("test")
    trained.check_images(test)
    test = data_source.subset(test, np.arange(min(settings.count, len(test))))
    parts = parallel.batch_parts(trained.mesh)
    (maps,) = encode_set(
        job.grid_encoder(),
        trained.variables,
        trained.mesh,
        test,
        (job.cell.time.time,),
        experiment.stream("dense/maps"),
        min(settings.batch_size, -(-len(test) // parts) * parts),
    )
    names = [test.class_names[label] for label in test.labels]
    return _Mapped(test.read(np.arange(len(test))), names, maps, {})


def _of_files(experiment: Experiment, job: Job) -> _Mapped:
    """The user's photos at their own aspect, covered by windows."""
    settings, trained = experiment.settings.dense, job.trained
    height, width, channels = trained.seen_shape
    image_files.check_channels(_FIELD, channels)
    root, paths = image_files.find(settings.images, _FIELD)
    if len(paths) > settings.count:
        logging.info(
            "dense: the first %d of %d images are shown", settings.count, len(paths)
        )
        paths = paths[: settings.count]
    data = experiment.settings.data
    size = photos.Size(
        (height, width), settings.scale, image_files.enlarges(data.name), data.resize
    )
    encode = job.grid_encoder()
    # Sizes of files are read first: a strip of one pixel by thousands becomes large.
    layouts = [
        Windows(size.of(image_ops.header_size(path)), size.window) for path in paths
    ]
    memory.check(
        needed_bytes(encode, trained.variables, layouts, trained.seen_shape),
        f"config.dense.scale: {settings.scale} times the network's side",
        "lower it, or config.dense.count, or name fewer config.dense.taps",
    )
    read = photos.read_all(paths, channels, size, grids.WIDTH)
    maps = encode_photos(
        encode,
        trained.variables,
        trained.mesh,
        [photo.pixels for photo in read],
        size.window,
        job.cell.time.time,
        experiment.stream("dense/maps"),
        settings.batch_size,
    )
    return _Mapped(
        [photo.shown for photo in read],
        [str(path.relative_to(root)) for path in paths],
        maps,
        {
            "scale": f"shorter side {settings.scale} times the network's",
            "windows": sum(len(layout.corners()) for layout in layouts),
        },
    )
