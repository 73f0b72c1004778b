"""CMC and mean average precision against loops over ranks, and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ddae_jax.errors import UserError
from ddae_jax.metrics import person_retrieval
from ddae_jax.metrics.person_retrieval import Sightings, evaluate

QUERIES, GALLERY = 30, 120


def scene(seed):
    """Distances that are near for the same person, some of them equal."""
    rng = np.random.default_rng(seed)
    queries = Sightings(rng.integers(1, 9, QUERIES), rng.integers(1, 4, QUERIES))
    gallery = Sightings(rng.integers(-1, 8, GALLERY), rng.integers(1, 4, GALLERY))
    same = queries.identities[:, None] == gallery.identities
    distances = rng.normal(size=(QUERIES, GALLERY)) - 0.7 * same
    return np.round(distances, 1), queries, gallery


def walk(distances, query, gallery):
    """Matlab's walk down the ranks. Returns rank of the first match and both APs."""
    identity, camera = query
    entries = [
        (distance, index, person == identity)
        for index, (distance, person, seen) in enumerate(
            zip(distances, gallery.identities, gallery.cameras, strict=True)
        )
        if person != -1 and not (person == identity and seen == camera)
    ]
    entries.sort()
    matches = sum(right for _, _, right in entries)
    if not matches:
        return None
    first, hits, at_hits, area = None, 0, 0.0, 0.0
    recall, precision = 0.0, 1.0
    for rank, (_, _, right) in enumerate(entries, 1):
        if right:
            hits += 1
            first = first or rank
            at_hits += hits / rank / matches
        area += (hits / matches - recall) * (precision + hits / rank) / 2
        recall, precision = hits / matches, hits / rank
    return first, at_hits, area


@pytest.mark.parametrize("seed", [0, 1])
def test_a_gallery_is_ranked_by_the_rules(seed):
    distances, queries, gallery = scene(seed)
    found = evaluate(np.array_split(distances, 4), queries, gallery)
    walked = [
        walk(row, query, gallery)
        for row, *query in zip(
            distances, queries.identities, queries.cameras, strict=True
        )
    ]
    counted = [entry for entry in walked if entry is not None]
    assert found.queries == len(counted)
    assert found.without_match == len(walked) - len(counted) > 0
    firsts, at_hits, areas = np.transpose(counted)
    cmc = [(firsts <= rank).mean() for rank in range(1, GALLERY + 1)]
    np.testing.assert_allclose(found.cmc, cmc, rtol=0, atol=1e-12)
    assert found.rank(5) == cmc[4] and found.rank(999) == 1
    assert found.map_precision_at_hits == pytest.approx(at_hits.mean(), abs=1e-12)
    assert found.map_trapezoid == pytest.approx(areas.mean(), abs=1e-12)
    assert abs(found.map_trapezoid - found.map_precision_at_hits) > 1e-3


def test_the_precision_at_hits_is_scikit_learns():
    """Where no distances are equal: scikit-learn takes equals together."""
    _, queries, gallery = scene(2)
    distances = np.random.default_rng(3).normal(size=(QUERIES, GALLERY))
    searched = person_retrieval.searched(queries, gallery)
    right = person_retrieval.matches(queries, gallery)
    precisions = [
        average_precision_score(is_match[inside], -row[inside])
        for row, inside, is_match in zip(distances, searched, right, strict=True)
        if is_match[inside].any()
    ]
    found = evaluate([distances], queries, gallery)
    assert found.map_precision_at_hits == pytest.approx(np.mean(precisions), abs=1e-12)


def test_the_rules_one_by_one():
    queries = Sightings(np.array([5]), np.array([1]))
    gallery = Sightings(np.array([5, -1, 0, 5, 7, 5]), np.array([1, 2, 2, 2, 1, 3]))
    inside = person_retrieval.searched(queries, gallery)
    np.testing.assert_array_equal(inside, [[False, False, True, True, True, True]])
    distances = np.array([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    # Distractor, match, other, match: of four ranks.
    found = evaluate([distances], queries, gallery)
    np.testing.assert_array_equal(found.cmc, [0, 1, 1, 1, 1, 1])
    assert found.map_precision_at_hits == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found.map_trapezoid == pytest.approx(
        ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    )
    np.testing.assert_array_equal(
        person_retrieval.nearest(distances, queries, gallery, 6), [[2, 3, 4, 5, -1, -1]]
    )


def test_distractors_match_nobody():
    queries = Sightings(np.array([0, 3]), np.array([1, 1]))
    gallery = Sightings(np.array([0, 3]), np.array([2, 2]))
    assert evaluate([np.eye(2)], queries, gallery).without_match == 1


def test_a_single_image_of_each_person_is_drawn():
    distances, queries, gallery = scene(4)
    rng = np.random.default_rng(0)
    draws = np.stack([rng.permutation(GALLERY) for _ in range(3)])
    found = evaluate([distances], queries, gallery, draws)
    firsts = []
    for row, identity, camera in zip(
        distances, queries.identities, queries.cameras, strict=True
    ):
        for order in draws:
            drawn = {}
            for index in order:
                person, seen = gallery.identities[index], gallery.cameras[index]
                if person == -1 or (person == identity and seen == camera):
                    continue
                drawn.setdefault(index if person == 0 else f"person {person}", index)
            ranked = sorted((row[index], index) for index in drawn.values())
            right = [gallery.identities[index] == identity for _, index in ranked]
            if any(right):
                firsts.append(right.index(True) + 1)
    cmc = [np.mean(np.array(firsts) <= rank) for rank in range(1, GALLERY + 1)]
    np.testing.assert_allclose(found.cmc, cmc, rtol=0, atol=1e-12)
    # One match each: both precisions follow from its rank.
    assert found.map_precision_at_hits == pytest.approx(np.mean(1 / np.array(firsts)))


def test_queries_of_a_person_and_camera_are_pooled():
    features = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    sightings = Sightings(np.array([7, 2, 7, 7]), np.array([1, 1, 1, 2]))
    pooled, queries = person_retrieval.pooled_queries(features, sightings)
    np.testing.assert_array_equal(queries.identities, [2, 7, 7])
    np.testing.assert_array_equal(queries.cameras, [1, 1, 2])
    expected = [features[1], (features[0] + features[2]) / 2, features[3]]
    np.testing.assert_array_equal(pooled, expected)


def test_what_cannot_be_evaluated_is_refused():
    queries = Sightings(np.array([1]), np.array([1]))
    with pytest.raises(UserError, match="none of 1 queries has a match by another"):
        evaluate([np.ones((1, 1))], queries, queries)
    with pytest.raises(ValueError, match="distances of 0 queries, not 1"):
        evaluate([], queries, queries)
