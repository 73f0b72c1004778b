"""What the task reid found, for the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddae_jax.data.person_images import PersonImages
from ddae_jax.data.person_synthetic import NAME as SYNTHETIC
from ddae_jax.experiment import Experiment
from ddae_jax.metrics.person_retrieval import RANKS, Evaluation, Sightings
from ddae_jax.report.outcome import Outcome, Picture
from ddae_jax.tasks.reid import drawn, evaluate
from ddae_jax.tasks.reid.evaluate import PersonFeatures, Ranked, ReRanking
from ddae_jax.tasks.reid.features import TrainedEmbedder, embed

_MULTI = "multi-query"


def outcome_of(
    experiment: Experiment,
    network: TrainedEmbedder,
    query: PersonImages,
    gallery: PersonImages,
    training: dict[str, Any],
) -> Outcome:
    """Ranks the gallery for each query in all ways that the settings name.

    Args:
      training: facts about it.

    Raises:
      UserError: no query has a match by another camera.
    """
    settings = experiment.settings.reid
    asked = _features(experiment, network, query, "reid/query_noise")
    among = _features(experiment, network, gallery, "reid/gallery_noise")
    how = None
    if settings.rerank:
        how = ReRanking(settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda)
    draws = None
    if settings.single_shot:
        generator = np.random.default_rng(experiment.settings.seed)
        rows = [generator.permutation(len(among)) for _ in range(settings.single_shot)]
        draws = np.stack(rows)
    found = {"": evaluate.table(asked, among, settings.distances, how, draws)}
    if settings.multi_query:
        pooled = evaluate.pooled(asked)
        found[_MULTI] = evaluate.table(pooled, among, settings.distances, how, draws)
    best = found[""][0]
    synthetic = SYNTHETIC in (training["trained_on"], query.source.name)
    return Outcome(
        title="Persons across cameras" + (" (synthetic)" if synthetic else ""),
        summary=(
            f"{best.title} distance on {query.source.name}: rank-1 "
            f"{100 * best.evaluation.rank(1):.1f} %, mAP "
            f"{100 * best.evaluation.map_precision_at_hits:.1f} % (mean of precisions "
            f"at hits), of {best.evaluation.queries} queries"
        ),
        facts={
            "synthetic": synthetic,
            "tested_on": query.source.name,
            "query_images": len(query),
            "gallery_images": len(gallery),
            "distractors": int((gallery.identities == 0).sum()),
            "without_match": best.evaluation.without_match,
            "results": [
                {"queries": kind or "single", **_facts(ranked)}
                for kind, table in found.items()
                for ranked in table
            ],
            **training,
        },
        protocol=_protocol(experiment, best.evaluation),
        headers=("distance", *(f"rank-{k} %" for k in RANKS), *_MAPS),
        rows=[
            (", ".join(part for part in (ranked.title, kind) if part), *_row(ranked))
            for kind, table in found.items()
            for ranked in table
        ],
        pictures=_pictures(experiment, found[""], asked, among, query, gallery)
        + drawn.training_curves(training["curve"]),
        note=(
            "The images are synthetic: these figures say nothing about photographs."
            if synthetic
            else ""
        ),
    )


_MAPS = ("mAP % (precision at hits)", "mAP % (trapezoid)")


def _features(
    experiment: Experiment, network: TrainedEmbedder, images: PersonImages, noise: str
) -> PersonFeatures:
    settings = experiment.settings.reid
    whole, stripes = embed(
        network,
        images,
        experiment.stream(noise),
        settings.test_batch_size,
        settings.normalise_test,
    )
    sightings = Sightings(images.identities, images.cameras)
    return PersonFeatures(whole, stripes, sightings)


def _row(ranked: Ranked) -> tuple[float, ...]:
    found = ranked.evaluation
    maps = (found.map_precision_at_hits, found.map_trapezoid)
    return tuple(100 * value for value in (*map(found.rank, RANKS), *maps))


def _facts(ranked: Ranked) -> dict[str, Any]:
    found = ranked.evaluation
    return {
        "distance": ranked.distance,
        "re_ranked": ranked.re_ranked,
        **{f"rank_{k}": found.rank(k) for k in RANKS},
        "map_precision_at_hits": found.map_precision_at_hits,
        "map_trapezoid": found.map_trapezoid,
        "cmc": [float(value) for value in found.cmc[: max(RANKS)]],
        "queries_counted": found.queries,
    }


def _protocol(experiment: Experiment, found: Evaluation) -> dict[str, Any]:
    settings = experiment.settings.reid
    return {
        "queries": f"{found.queries}; {found.without_match} had no match",
        "searched": "the gallery without images of the person by the same camera",
        "network": "the first of two" if settings.mutual else "one",
        "global features": "unit length" if settings.normalise_test else "as they are",
        "gallery": f"single shot, {settings.single_shot} draws"
        if settings.single_shot
        else "whole",
        "re-ranking": f"k1 {settings.rerank_k1}, k2 {settings.rerank_k2}, lambda "
        f"{settings.rerank_lambda:g}"
        if settings.rerank
        else "none",
        "seed": experiment.settings.seed,
        "dtype": experiment.settings.dtype,
    }


def _pictures(
    experiment: Experiment,
    table: Sequence[Ranked],
    asked: PersonFeatures,
    among: PersonFeatures,
    query: PersonImages,
    gallery: PersonImages,
) -> list[Picture]:
    count = min(experiment.settings.reid.shown, len(query))
    places = np.unique(np.linspace(0, len(query) - 1, count).round().astype(int))
    name = table[0].distance
    nearest = evaluate.nearest(asked.take(places), among, name, drawn.NEAREST)
    pictures = [
        drawn.match_curves(table),
        drawn.galleries(query.subset(places), gallery, nearest, name),
    ]
    right = drawn.first_right(query.subset(places), gallery, nearest)
    if right is not None:
        row, place = right
        pictures.append(
            drawn.alignment(
                query.source.read([places[row]])[0],
                gallery.source.read([place])[0],
                asked.stripes[places[row]],
                among.stripes[place],
            )
        )
    return pictures
