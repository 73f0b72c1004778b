"""Inception score, precision and recall, KID, against plain numpy."""

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.metrics import scores


def two_sets(real=61, fake=47, width=5):
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((real, width)) + 20
    generated = 1.3 * generator.standard_normal((fake, width)) + 20.4
    return reference.astype("f"), generated.astype("f")


def plain_precision_recall(reference, generated, k):
    def distances(a, b):
        return np.linalg.norm(a[:, None].astype("d") - b[None], axis=-1)

    def covered(queries, centres):
        radii = np.sort(distances(centres, centres), axis=1)[:, k]
        return np.mean((distances(queries, centres) <= radii).any(axis=1))

    return covered(generated, reference), covered(reference, generated)


@pytest.mark.parametrize("block_size", [2, 7, 64])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_follow_their_definition(block_size, k):
    reference, generated = two_sets()
    found = scores.precision_recall(reference, generated, k, block_size)
    expected = plain_precision_recall(reference, generated, k)
    assert (found.precision, found.recall) == expected
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_precision_and_recall_of_equal_and_of_distant_sets():
    reference, generated = two_sets()
    same = scores.precision_recall(reference, reference)
    assert (same.precision, same.recall) == (1, 1)
    apart = scores.precision_recall(reference, generated + 100)
    assert (apart.precision, apart.recall) == (0, 0)


def plain_kernel_distance(x, y):
    def kernel(a, b):
        return (np.dot(a.astype("d"), b.astype("d")) / len(a) + 1) ** 3

    def within(a):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if i != j]
        return np.mean([kernel(a[i], a[j]) for i, j in pairs])

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_kernel_distance_follows_its_definition():
    reference, generated = two_sets(20, 20)
    found = scores.kernel_distance(reference, generated, subset_size=20, subsets=3)
    expected = plain_kernel_distance(reference, generated)
    assert abs(found.mean / expected - 1) < 1e-9
    assert found.standard_deviation < 1e-6 * found.mean  # each subset is the whole set


def test_kernel_distance_is_unbiased_and_repeatable():
    draws = np.random.default_rng(1).standard_normal((400, 4))
    same = scores.kernel_distance(draws[:200], draws[200:], 50, 200)
    assert abs(same.mean) < 3 * same.standard_deviation / np.sqrt(20)
    assert same == scores.kernel_distance(draws[:200], draws[200:], 50, 200)
    assert same != scores.kernel_distance(draws[:200], draws[200:], 50, 200, seed=1)


def test_inception_score_follows_its_definition():
    logits = np.random.default_rng(0).standard_normal((23, 6)).astype("f") * 2
    expected = []
    for start, stop in [(0, 11), (11, 23)]:
        p = np.exp(logits[start:stop].astype("d"))
        p /= p.sum(1, keepdims=True)
        expected.append(np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1))))
    found = scores.inception_score(logits, splits=2)
    assert abs(found.mean / np.mean(expected) - 1) < 1e-9
    assert abs(found.standard_deviation / np.std(expected) - 1) < 1e-6


def test_inception_score_reaches_its_bounds():
    sure = 1e4 * np.eye(5)[np.arange(50) % 5]
    assert abs(scores.inception_score(sure, splits=10).mean - 5) < 1e-9
    assert abs(scores.inception_score(np.ones((50, 5))).mean - 1) < 1e-9


def test_unusable_input_is_refused_in_one_line():
    reference, generated = two_sets()
    broken = generated.copy()
    broken[3] = np.inf
    for wrong, message in [
        (lambda: scores.precision_recall(reference[:3], generated), "at least 4"),
        (lambda: scores.precision_recall(reference, generated[:, :2]), "width 2, not"),
        (lambda: scores.precision_recall(reference, broken), "sample 3"),
        (lambda: scores.precision_recall(reference, generated, 0), "1 or more"),
        (lambda: scores.kernel_distance(reference, generated), "at least 1000 needed"),
        (lambda: scores.kernel_distance(reference, broken, 10), "not finite"),
        (lambda: scores.kernel_distance(reference, generated, 1), "1 of 2 needed"),
        (lambda: scores.inception_score(np.ones((3, 4)), 2), "3 samples, at least 4"),
        (lambda: scores.inception_score(np.ones((3, 4)), 0), "at least 1"),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            wrong()
        assert "\n" not in str(raised.value)
