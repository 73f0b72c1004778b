"""Re-ranking in blocks against plain dense NumPy, written from the formulas."""

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.metrics import re_ranking
from tests.tools import double_precision


def persons(seed, images=90, of_each=6, width=16, spread=0.9):
    """Features in clusters, as re-ranking needs them; queries are the first images."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(images // of_each, width))
    which = rng.integers(0, len(centres), images)
    return centres[which] + spread * rng.normal(size=(images, width))


def plain_distances(features):
    return np.sqrt(np.square(features[:, None] - features[None]).sum(-1))


def dense(distances, queries, k1, k2, weight):
    """Section 3 of the paper, a set and a sum at a time."""
    count = len(distances)
    d = np.stack([np.square(row / row.max()) for row in distances])
    ranked = [
        sorted(range(count), key=lambda j, i=i: (d[i, j], j)) for i in range(count)
    ]

    def mutual(i, k):
        return {j for j in ranked[i][: k + 1] if i in ranked[j][: k + 1]}

    weights = np.zeros((count, count))
    expanded = 0
    for i in range(count):
        base = mutual(i, k1)
        members = set(base)
        for j in base:
            half = mutual(j, int(np.around(k1 / 2)))
            if len(half & base) > 2 / 3 * len(half):
                members |= half
        expanded += len(members) - len(base)
        for j in members:
            weights[i, j] = np.exp(-d[i, j])
        weights[i] /= weights[i].sum() or 1
    assert expanded > 0, "no neighbourhood was expanded: the data tests little"
    weights = np.stack([weights[ranked[i][:k2]].mean(axis=0) for i in range(count)])
    final = np.empty((queries, count - queries))
    for i in range(queries):
        for g in range(queries, count):
            shares = np.minimum(weights[i], weights[g]).sum()
            shares /= np.maximum(weights[i], weights[g]).sum()
            final[i, g - queries] = (1 - weight) * (1 - shares) + weight * d[i, g]
    return final


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(re_ranking, "_BLOCK_BYTES", 4 * 90 * 7)
    monkeypatch.setattr(re_ranking, "_PAIRS", 64)


@pytest.mark.parametrize(
    "k1, k2, weight", [(20, 6, 0.3), (7, 3, 0.0), (10, 1, 0.5), (15, 2, 1.0)]
)
def test_blocks_equal_the_dense_formulas(small_blocks, k1, k2, weight):
    features = persons(k1)
    found = np.concatenate(
        list(
            re_ranking.re_rank(
                re_ranking.of_features(features.astype(np.float32)),
                20,
                k1=k1,
                k2=k2,
                weight=weight,
            )
        )
    )
    expected = dense(plain_distances(features), 20, k1, k2, weight)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_any_distances_can_be_re_ranked(small_blocks):
    """Local ones too: only blocks of rows, and pairs, are asked for."""
    whole = np.round(plain_distances(persons(1)), 1)  # many are equal
    np.fill_diagonal(whole, 4.0)  # as of path distances: not 0 from itself
    given = re_ranking.Distances(
        lambda start, stop: whole[start:stop], lambda i, j: whole[i, j], len(whole)
    )
    with double_precision.float64():
        found = np.concatenate(list(re_ranking.re_rank(given, 30)))
    expected = dense(whole, 30, 20, 6, 0.3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_encodings_sum_to_one_and_are_sparse():
    features = re_ranking.of_features(persons(2, 300).astype(np.float32))
    nearest = re_ranking.nearest_of_block(features.rows(0, 300))
    np.testing.assert_array_equal(nearest.indices[:, 0], np.arange(300))
    encoded = re_ranking.encodings(nearest, features.pairs)
    np.testing.assert_allclose(encoded.sum(axis=1), 1)
    assert encoded.nnz < 300 * 300 / 3


def test_fewer_images_than_neighbours():
    features = re_ranking.of_features(persons(3, 12).astype(np.float32))
    found = np.concatenate(list(re_ranking.re_rank(features, 4)))
    assert found.shape == (4, 8) and np.isfinite(found).all()


def test_a_wrong_k2_is_refused():
    features = re_ranking.of_features(persons(3, 30).astype(np.float32))
    with pytest.raises(UserError, match="k2 9: from 1 to k1 \\+ 1, which is 5"):
        next(re_ranking.re_rank(features, 4, k1=4, k2=9))
