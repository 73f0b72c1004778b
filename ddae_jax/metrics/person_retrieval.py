"""How well persons are found across cameras: CMC and mean average precision.

The rules are those of Market1501 (Zheng et al. 2015, ICCV): for a query, images of the
same person by the same camera are left out, as are those that show no person well (id
-1); distractors (id 0) are searched and never right.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ddae_jax.errors import UserError

JUNK, DISTRACTOR = -1, 0
RANKS = (1, 5, 10, 20)
"""Ranks of the CMC that tables show."""


@dataclasses.dataclass(frozen=True)
class Sightings:
    """Who is seen by which camera, an entry an image.

    Attributes:
      identities: of persons from 1 on; JUNK; DISTRACTOR.
      cameras: any numbers.
    """

    identities: Int[np.ndarray, "images"]
    cameras: Int[np.ndarray, "images"]

    def __len__(self) -> int:
        return len(self.identities)

    def take(self, indices: Int[np.ndarray, "some"] | slice) -> "Sightings":
        """Those of some of the images."""
        return Sightings(self.identities[indices], self.cameras[indices])


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Means over the queries that have a match, all in [0, 1].

    Attributes:
      cmc: entry k - 1 is the share of queries with a match among the nearest k.
      map_precision_at_hits: mean over a query's matches of the precision at each one's
        rank: scikit-learn's average precision, and that of most reproductions.
      map_trapezoid: area under precision and recall by the trapezoidal rule, precision
        1 at recall 0: that of Market1501's Matlab code.
      queries: how many were counted.
      without_match: how many were not, because no image that is searched is a match.
    """

    cmc: Float[np.ndarray, "ranks"]
    map_precision_at_hits: float
    map_trapezoid: float
    queries: int
    without_match: int

    def rank(self, k: int) -> float:
        """Share of queries with a match among the nearest k, from 1 on."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def searched(
    queries: Sightings, gallery: Sightings
) -> Bool[np.ndarray, "queries gallery"]:
    """Which images are searched for which query."""
    same = matches(queries, gallery)
    same &= queries.cameras[:, None] == gallery.cameras
    return ~same & (gallery.identities != JUNK)


def matches(
    queries: Sightings, gallery: Sightings
) -> Bool[np.ndarray, "queries gallery"]:
    """Which images show the person of which query, whatever the camera."""
    persons = gallery.identities > DISTRACTOR
    return (queries.identities[:, None] == gallery.identities) & persons


def nearest(
    distances: Float[np.ndarray, "queries gallery"],
    queries: Sightings,
    gallery: Sightings,
    k: int,
) -> Int[np.ndarray, "queries k"]:
    """The k nearest images searched, the nearest first; -1 where there are fewer.

    Of equals, the one that comes first in the gallery.
    """
    found = np.full((len(queries), k), -1)
    for row, inside in enumerate(searched(queries, gallery)):
        among = np.flatnonzero(inside)
        order = np.argsort(distances[row, among], kind="stable")[:k]
        found[row, : len(order)] = among[order]
    return found


def evaluate(
    blocks: Iterable[Float[np.ndarray, "_ gallery"]],
    queries: Sightings,
    gallery: Sightings,
    draws: Int[np.ndarray, "repeats gallery"] | None = None,
) -> Evaluation:
    """Ranks the gallery for each query.

    Args:
      blocks: the distances, some queries after the others, so that they need not be in
        memory at once.
      draws: as for `ranks_of_matches`.

    Raises:
      UserError: no query has a match.
    """
    ranks = []
    for block in blocks:
        some = queries.take(slice(len(ranks), len(ranks) + len(block)))
        ranks += ranks_of_matches(block, some, gallery, draws)
    if len(ranks) != len(queries):
        raise ValueError(f"distances of {len(ranks)} queries, not {len(queries)}")
    return summary(ranks, len(gallery))


def ranks_of_matches(
    distances: Float[np.ndarray, "queries gallery"],
    queries: Sightings,
    gallery: Sightings,
    draws: Int[np.ndarray, "repeats gallery"] | None = None,
) -> list[list[Int[np.ndarray, "_"]]]:
    """Ranks from 1 on, the first match first, of each query; of equal distances, the
    image that comes first in the gallery counts as nearer.

    Args:
      draws: "single gallery shot", the older protocol of CUHK03: a random order of the
        gallery per repeat. Only that image of each person is searched which comes
        first in it; distractors all stay.

    Returns:
      for each query the ranks of each repeat, of one without draws; of none where no
      image is a match.
    """
    found = []
    rows = zip(
        distances, searched(queries, gallery), matches(queries, gallery), strict=True
    )
    for row, inside, right in rows:
        right &= inside
        kept = _kept(inside, gallery, draws) if right.any() else ()
        found.append([_ranks(row[images], right[images]) for images in kept])
    return found


def summary(
    ranks: Sequence[Sequence[Int[np.ndarray, "_"]]], gallery: int
) -> Evaluation:
    """Means over all queries, and over the repeats.

    Args:
      ranks: as `ranks_of_matches` gives them, of all queries.
      gallery: how many images were searched.

    Raises:
      UserError: no query has a match.
    """
    repeats = [one for of_query in ranks for one in of_query]
    if not repeats:
        raise UserError(
            f"none of {len(ranks)} queries has a match by another camera among "
            f"{gallery} images"
        )
    firsts = np.bincount([one[0] for one in repeats], minlength=gallery + 1)[1:]
    counted = sum(map(bool, ranks))
    return Evaluation(
        cmc=np.cumsum(firsts) / len(repeats),
        map_precision_at_hits=float(np.mean([*map(precision_at_hits, repeats)])),
        map_trapezoid=float(np.mean([*map(trapezoid, repeats)])),
        queries=counted,
        without_match=len(ranks) - counted,
    )


def _kept(inside, gallery: Sightings, draws):
    """Indices of the images searched, in each repeat."""
    if draws is None:
        yield np.flatnonzero(inside)
        return
    for order in draws:
        shuffled = order[inside[order]]
        identities = gallery.identities[shuffled]
        _, first = np.unique(identities, return_index=True)
        chosen = np.zeros(len(inside), bool)
        chosen[shuffled[first]] = True
        chosen |= inside & (gallery.identities == DISTRACTOR)
        yield np.flatnonzero(chosen)


def _ranks(distances, right) -> Int[np.ndarray, "hits"]:
    # What is farther than the last match changes nothing.
    among = np.flatnonzero(distances <= distances[right].max())
    order = np.argsort(distances[among], kind="stable")
    return np.flatnonzero(right[among][order]) + 1


def precision_at_hits(ranks: Int[np.ndarray, "hits"]) -> float:
    """Average precision of one query: mean over its matches of k / rank of the k-th.

    Args:
      ranks: of all its matches, from 1 on, ascending.
    """
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def trapezoid(ranks: Int[np.ndarray, "hits"]) -> float:
    """Average precision of one query, by the trapezoidal rule.

    The precision at the k-th match is k / rank, and just before it (k - 1) /
    (rank - 1), or 1 before the first rank.

    Args:
      ranks: of all its matches, from 1 on, ascending.
    """
    hits = np.arange(1, len(ranks) + 1)
    before = np.where(ranks == 1, 1.0, (hits - 1) / np.maximum(ranks - 1, 1))
    return float(np.mean((before + hits / ranks) / 2))


def pooled_queries(
    features: Float[np.ndarray, "images *shape"], sightings: Sightings
) -> tuple[Float[np.ndarray, "queries *shape"], Sightings]:
    """Multi-query: one query a person and camera, the mean of its images' features.

    Args:
      features: of all images of the queries' persons by the queries' cameras.
    """
    pairs = np.stack([sightings.identities, sightings.cameras], axis=1)
    groups, group = np.unique(pairs, axis=0, return_inverse=True)
    sums = np.zeros((len(groups), *features.shape[1:]))
    np.add.at(sums, group, features)
    counts = np.bincount(group).reshape(-1, *[1] * (features.ndim - 1))
    pooled = (sums / counts).astype(features.dtype)
    return pooled, Sightings(groups[:, 0], groups[:, 1])
