"""How well a gallery is ranked: by each distance, with and without re-ranking."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from ddae_jax.metrics import person_retrieval, re_ranking
from ddae_jax.metrics.checks import checked_features
from ddae_jax.metrics.person_retrieval import Evaluation, Sightings
from ddae_jax.tasks.reid import distances


@dataclasses.dataclass(frozen=True)
class PersonFeatures:
    """What is known of some images.

    Attributes:
      whole: global features.
      stripes: of each image, from top to bottom.
      sightings: who is seen by which camera.
    """

    whole: Float[np.ndarray, "images features"]
    stripes: Float[np.ndarray, "images rows local"]
    sightings: Sightings

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, indices: Int[np.ndarray, "some"]) -> "PersonFeatures":
        """Those of some of the images."""
        return PersonFeatures(
            self.whole[indices], self.stripes[indices], self.sightings.take(indices)
        )


@dataclasses.dataclass(frozen=True)
class ReRanking:
    """How re-ranking is done: see metrics/re_ranking.py."""

    k1: int = re_ranking.K1
    k2: int = re_ranking.K2
    weight: float = re_ranking.WEIGHT


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A row of the table.

    Attributes:
      distance: one of `distances.NAMES`.
      re_ranked: whether by k-reciprocal neighbours.
      evaluation: what came out.
    """

    distance: str
    re_ranked: bool
    evaluation: Evaluation

    @property
    def title(self) -> str:
        """In tables and legends."""
        return f"{self.distance}, re-ranked" if self.re_ranked else self.distance


def table(
    queries: PersonFeatures,
    gallery: PersonFeatures,
    names: Sequence[str] = distances.NAMES,
    re_ranked: ReRanking | None = None,
    draws: Int[np.ndarray, "repeats gallery"] | None = None,
) -> list[Ranked]:
    """Ranks the gallery for each query, by each of the distances.

    Distances are computed in blocks and forgotten: the memory is that of the features,
    of some blocks of 64 MiB, and of re-ranking's sparse encodings. With re-ranking all
    images are compared with all, and the queries with all once more.

    Args:
      names: of `distances.NAMES`.
      re_ranked: each of them is followed by its re-ranked form; None: without.
      draws: single gallery shot: see `person_retrieval.ranks_of_matches`.

    Raises:
      UserError: no query has a match; a feature that is not finite; k2 above k1 + 1.
    """
    for features, name in ((queries, "query features"), (gallery, "gallery features")):
        checked_features(features.whole, name, at_least=1)
        checked_features(features.stripes.reshape(len(features), -1), name, at_least=1)
    ask = functools.partial(
        person_retrieval.ranks_of_matches, gallery=gallery.sightings, draws=draws
    )
    columns = _images(queries, gallery) if re_ranked else _images(gallery)
    rows = columns if re_ranked else _images(queries)
    ranks = {name: [] for name in names}
    nearest = {name: [] for name in names}
    for start, found in distances.blocks(names, rows, columns):
        some = queries.sightings.take(slice(start, None))
        for name, block in found.items():
            if re_ranked:
                nearest[name].append(re_ranking.nearest_of_block(block, re_ranked.k1))
            of_queries = np.asarray(block[: len(some), -len(gallery) :])
            ranks[name] += ask(of_queries, some.take(slice(len(of_queries))))
    again = {}
    if re_ranked:
        again = _re_ranked(ask, queries.sightings, columns, nearest, re_ranked)
    result = []
    for name in names:
        for turn, found in ((False, ranks), (True, again)):
            if found:
                measured = person_retrieval.summary(found[name], len(gallery))
                result.append(Ranked(name, turn, measured))
    return result


def _re_ranked(
    ask, queries: Sightings, images: distances.StripedFeatures, nearest, how: ReRanking
) -> dict:
    """Ranks of the matches after re-ranking, by distance."""
    count = len(queries)
    nearest = {name: re_ranking.joined(parts) for name, parts in nearest.items()}
    encoded, gallery = {}, {}
    for name, found in nearest.items():
        pairs = functools.partial(distances.of_pairs, name, images)
        encoded[name] = re_ranking.encodings(found, pairs, how.k2)
        gallery[name] = scipy.sparse.csc_array(encoded[name][count:])
    ranks = {name: [] for name in nearest}
    asked = distances.StripedFeatures(images.whole[:count], images.stripes[:count])
    for start, found in distances.blocks(tuple(nearest), asked, images):
        for name, block in found.items():
            some = slice(start, start + len(block))
            final = re_ranking.re_ranked_block(
                np.asarray(block)[:, count:],
                nearest[name].largest[some],
                encoded[name][some],
                gallery[name],
                how.weight,
            )
            ranks[name] += ask(final, queries.take(some))
    return ranks


def nearest(
    queries: PersonFeatures, gallery: PersonFeatures, name: str, k: int
) -> Int[np.ndarray, "queries k"]:
    """The k nearest of the images searched; -1 where there are fewer.

    Args:
      queries: few.
      name: of `distances.NAMES`; without re-ranking.
    """
    found = []
    blocks = distances.blocks((name,), _images(queries), _images(gallery))
    for start, of_block in blocks:
        block = np.asarray(of_block[name])
        some = queries.sightings.take(slice(start, start + len(block)))
        found.append(person_retrieval.nearest(block, some, gallery.sightings, k))
    return np.concatenate(found)


def pooled(queries: PersonFeatures) -> PersonFeatures:
    """Multi-query: the mean of each person's images by each camera."""
    whole, sightings = person_retrieval.pooled_queries(queries.whole, queries.sightings)
    stripes, _ = person_retrieval.pooled_queries(queries.stripes, queries.sightings)
    return PersonFeatures(whole, stripes, sightings)


def _images(*parts: PersonFeatures) -> distances.StripedFeatures:
    return distances.StripedFeatures(
        np.concatenate([part.whole for part in parts]),
        np.concatenate([part.stripes for part in parts]),
    )
