"""Nearest training images of test images by cosine of pooled features."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import encode_batches
from ddae_jax.heads import retrieval
from ddae_jax.report import pictures
from ddae_jax.report.outcome import Picture
from ddae_jax.tasks.dense.job import Job, Part


def run(experiment: Experiment, job: Job) -> Part:
    """Looks up the neighbours of config.dense.queries test images.

    The training set is read batch by batch: only the best so far are kept.

    Raises:
      UserError: fewer training images than neighbours; images of another shape.
    """
    settings, trained, cell = experiment.settings.dense, job.trained, job.cell
    train = experiment.source("train")
    test = experiment.source("test")
    for source in (train, test):
        trained.check_images(source)
    count = min(settings.train_count or len(train), len(train))
    train = data_source.subset(train, np.arange(count))
    if settings.neighbours > count:
        raise UserError(
            f"config.dense.neighbours: {settings.neighbours} of {count} training images"
        )
    # Image folders are in the order of their classes: take queries from all over.
    places = np.linspace(0, len(test) - 1, min(settings.queries, len(test)))
    queries = data_source.subset(test, np.unique(places.round().astype(int)))
    query_key = experiment.stream("dense/queries")
    train_key = experiment.stream("dense/gallery")

    def encoded(source, noise_key):
        batches = encode_batches(
            [(trained.encoder((cell.tap,)), cell.time.time)],
            trained.variables,
            trained.mesh,
            source,
            noise_key,
            settings.batch_size,
        )
        for first, (features,) in batches:
            found = retrieval.normalise(features[cell.tap])
            yield np.arange(first, first + len(found)), found

    asked = np.concatenate([features for _, features in encoded(queries, query_key)])
    nearest = retrieval.none_yet(len(queries), settings.neighbours)
    for indices, features in encoded(train, train_key):
        nearest = retrieval.update(nearest, asked, indices, features)
    precision = retrieval.precision(nearest, queries.labels, train.labels)
    return _part(experiment, job, queries, train, nearest, precision)


def _part(
    experiment: Experiment,
    job: Job,
    queries: Source,
    train: Source,
    nearest: retrieval.Neighbours,
    precision: Float[np.ndarray, "queries"],
) -> Part:
    k = experiment.settings.dense.neighbours
    first = dataclasses.replace(nearest, indices=nearest.indices[:, :1])
    facts = {
        "k": k,
        "precision_at_k": float(precision.mean()),
        "precision_at_1": float(
            retrieval.precision(first, queries.labels, train.labels).mean()
        ),
        "precision_by_chance": chance(queries.labels, train.labels),
        "standard_error": float(precision.std() / np.sqrt(len(queries))),
    }
    shown = min(experiment.settings.dense.gallery, len(queries))
    places = np.linspace(0, len(queries) - 1, shown).round().astype(int)
    gallery = pictures.neighbours(
        queries.read(places),
        queries.labels[places],
        np.stack([train.read(nearest.indices[place]) for place in places]),
        train.labels[nearest.indices[places]],
        train.class_names,
    )
    return Part(
        summary=(
            f"{100 * facts['precision_at_k']:.1f} % of {k} nearest neighbours are of "
            f"the query's class (by chance {100 * facts['precision_by_chance']:.1f} %)"
        ),
        facts=facts,
        protocol={
            "queries": f"{len(queries)} test images of {queries.name}",
            "searched": f"{len(train)} training images",
            "similarity": "cosine of pooled features; one draw of noise per image",
        },
        rows=[
            (job.cell.tap, f"precision at {k}", facts["precision_at_k"]),
            (job.cell.tap, "precision at 1", facts["precision_at_1"]),
            (job.cell.tap, "precision by chance", facts["precision_by_chance"]),
        ],
        picture=Picture(
            f"Test images (left) and their {k} nearest training images at "
            f"{job.cell.tap}, noise level {job.cell.time.noise_level:.3g}; green: of "
            "the same class, red: of another, which is named",
            gallery,
        ),
    )


def chance(
    query_labels: Int[np.ndarray, "queries"], labels: Int[np.ndarray, "count"]
) -> float:
    """Precision of neighbours drawn at random, in [0, 1]."""
    shares = np.bincount(labels, minlength=query_labels.max() + 1) / len(labels)
    return float(shares[query_labels].mean())
