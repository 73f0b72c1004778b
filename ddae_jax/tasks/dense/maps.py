"""Maps of taps: the principal components of each position as colours, and k-means."""

import matplotlib
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ddae_jax.data import image_files
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import common
from ddae_jax.features.encode import encode_set
from ddae_jax.heads import clusters
from ddae_jax.report import figures as curves
from ddae_jax.report.outcome import Picture
from ddae_jax.runtime.random import stream
from ddae_jax.tasks.dense.job import Job, Part

_SIDE = 1.1  # inches of one map


def run(config: ConfigDict, job: Job) -> Part:
    """Draws a row for each image: itself, and two maps for each tap.

    Components and clusters are those of all images together, so that a colour means
    the same in every row.
    """
    settings, trained = config.dense, job.trained
    source, names = _images(config, job)
    size = trained.mesh.size
    batch_size = min(settings.batch_size, -(-len(source) // size) * size)
    (encoded,) = encode_set(
        job.grid_encoder(),
        trained.variables,
        trained.mesh,
        source,
        (job.cell.time.time,),
        stream(config.seed, "dense/maps"),
        batch_size,
    )
    columns, rows, facts = [], [], {}
    for tap in job.taps:
        features = encoded[tap]
        colours, explained = clusters.principal_colours(features, config.seed)
        try:
            labels, between = clusters.k_means(features, settings.clusters, config.seed)
        except UserError as error:
            raise UserError(f"config.dense.clusters: tap {tap}: {error}") from error
        grid = "x".join(map(str, features.shape[1:3]))
        columns.append((f"{tap}, {grid}\nPCA", colours))
        columns.append((f"{tap}, {grid}\nk-means", paint(labels)))
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
            draw(images, names, columns),
        ),
    )


def _images(config: ConfigDict, job: Job) -> tuple[Source, list[str]]:
    """The user's images, or the first of the test set; and what to call them."""
    count = config.dense.count
    if not config.dense.images:
        test = common.load_source(config, "test")
        common.check_images(job.trained, test)
        test = data_source.subset(test, np.arange(min(count, len(test))))
        return test, [test.class_names[label] for label in test.labels]
    field = "config.dense.images"
    root, paths = image_files.find(config.dense.images, field)
    if len(paths) > count:
        logging.info("dense: the first %d of %d images are shown", count, len(paths))
        paths = paths[:count]
    enlarge = image_files.enlarges(config.data.name)
    source = image_files.source(field, paths, job.image_shape, enlarge)
    return source, [str(path.relative_to(root)) for path in paths]


def paint(
    labels: UInt8[np.ndarray, "... height width"],
) -> Float[np.ndarray, "... height width 3"]:
    """A colour in [0, 1] for each class; after the 20th they come again."""
    colours = np.array(matplotlib.colormaps["tab20"].colors)
    # Its colours come in pairs of one hue: first the strong ones, then the pale.
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return colours[order][np.asarray(labels) % 20]


def draw(
    images: UInt8[np.ndarray, "rows height width channels"],
    names: list[str],
    columns: list[tuple[str, Float[np.ndarray, "rows height width 3"]]],
) -> Figure:
    """One row for each image: itself, then its map in each column, with hard edges.

    Args:
      names: of the rows.
      columns: title and the maps, of any size.
    """
    images = np.repeat(images, 3, -1) if images.shape[-1] == 1 else images
    everything = [("image", images), *columns]
    rows, count = len(images), len(everything)
    aspect = images.shape[1] / images.shape[2]
    figure = Figure(
        figsize=(_SIDE * count + 0.8, _SIDE * aspect * rows + 0.5), layout="constrained"
    )
    axes = figure.subplots(rows, count, squeeze=False)
    extent = (0, images.shape[2], images.shape[1], 0)
    for column, (title, maps) in enumerate(everything):
        axes[0, column].set_title(title, fontsize=7, color=curves.INK)
        for row in range(rows):
            axis = axes[row, column]
            axis.imshow(maps[row], interpolation="nearest", extent=extent)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for row, name in enumerate(names):
        short = name if len(name) <= 18 else f"…{name[-17:]}"
        axes[row, 0].set_ylabel(short, fontsize=7, color=curves.INK)
    return figure
