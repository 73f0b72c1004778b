"""Maps of taps: the principal components of each position as colours, and k-means."""

import numpy as np
from absl import logging

from ddae_jax.data import image_files
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import encode_set
from ddae_jax.heads import clusters
from ddae_jax.report import pictures
from ddae_jax.report.outcome import Picture
from ddae_jax.tasks.dense.job import Job, Part


def run(experiment: Experiment, job: Job) -> Part:
    """Draws a row for each image: itself, and two maps for each tap.

    Components and clusters are those of all images together, so that a colour means
    the same in every row.
    """
    settings, trained = experiment.settings.dense, job.trained
    source, names = _images(experiment, job)
    size = trained.mesh.size
    batch_size = min(settings.batch_size, -(-len(source) // size) * size)
    (encoded,) = encode_set(
        job.grid_encoder(),
        trained.variables,
        trained.mesh,
        source,
        (job.cell.time.time,),
        experiment.stream("dense/maps"),
        batch_size,
    )
    columns, rows, facts = [], [], {}
    for tap in job.taps:
        features = encoded[tap]
        colours, explained = clusters.principal_colours(
            features, experiment.settings.seed
        )
        try:
            labels, between = clusters.k_means(
                features, settings.clusters, experiment.settings.seed
            )
        except UserError as error:
            raise UserError(f"config.dense.clusters: tap {tap}: {error}") from error
        grid = "x".join(map(str, features.shape[1:3]))
        columns.append((f"{tap}, {grid}\nPCA", colours))
        columns.append((f"{tap}, {grid}\nk-means", pictures.paint(labels)))
        facts[tap] = {"explained_by_3": explained, "explained_by_clusters": between}
        rows.append((tap, "variance in 3 principal components", explained))
        rows.append((tap, f"variance between {settings.clusters} clusters", between))
    images = source.read(np.arange(len(source)))
    return Part(
        summary=f"maps of {len(job.taps)} taps over {len(source)} images",
        facts=facts,
        protocol={"images": len(source), "clusters": settings.clusters},
        rows=rows,
        picture=Picture(
            f"Features per position at noise level {job.cell.time.noise_level:.3g}: "
            "the same colour means the same in all rows of a column",
            pictures.maps(images, names, columns),
        ),
    )


def _images(experiment: Experiment, job: Job) -> tuple[Source, list[str]]:
    """The user's images, or the first of the test set; and what to call them."""
    count = experiment.settings.dense.count
    if not experiment.settings.dense.images:
        test = experiment.source("test")
        job.trained.check_images(test)
        test = data_source.subset(test, np.arange(min(count, len(test))))
        return test, [test.class_names[label] for label in test.labels]
    field = "config.dense.images"
    root, paths = image_files.find(experiment.settings.dense.images, field)
    if len(paths) > count:
        logging.info("dense: the first %d of %d images are shown", count, len(paths))
        paths = paths[:count]
    enlarge = image_files.enlarges(experiment.settings.data.name)
    source = image_files.source(field, paths, job.trained.seen_shape, enlarge)
    return source, [str(path.relative_to(root)) for path in paths]
