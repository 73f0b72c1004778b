"""The path distance against NumPy loops, and its gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ddae_jax.metrics import path_distance
from ddae_jax.metrics.euclidean import euclidean_distances
from tests.tools import double_precision


def stripes(seed, images, rows, features=6):
    return np.random.default_rng(seed).normal(size=(images, rows, features))


def plain_stripe_distances(f, g):
    """Eq. 1, as the paper writes it."""
    x = np.sqrt(np.square(f[:, None] - g[None]).sum(-1))
    return (np.exp(x) - 1) / (np.exp(x) + 1)


def plain_shortest_path(d):
    """Eq. 2, stripe by stripe."""
    sums = np.empty_like(d)
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            before = [sums[i - 1, j]] if i else []
            before += [sums[i, j - 1]] if j else []
            sums[i, j] = d[i, j] + min(before, default=0)
    return sums[-1, -1]


def plain_path_distances(first, second):
    return np.array(
        [
            [plain_shortest_path(plain_stripe_distances(f, g)) for g in second]
            for f in first
        ]
    )


@pytest.mark.parametrize("rows, columns", [(8, 8), (7, 7), (3, 5), (5, 2), (1, 1)])
def test_the_distance_is_that_of_the_formulas(monkeypatch, rows, columns):
    first, second = stripes(0, 5, rows), stripes(1, 4, columns)
    expected = plain_path_distances(first, second)
    # Two images at a time, and one that is left.
    monkeypatch.setattr(path_distance, "_BLOCK", 2 * 4 * rows * columns)
    with double_precision.float64():
        program = jax.jit(path_distance.path_distances)
        found = program(jnp.asarray(first), jnp.asarray(second))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    narrow = path_distance.path_distances(
        jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)
    )
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, expected, rtol=1e-6, atol=1e-6)


def test_one_image_at_a_time_changes_nothing(monkeypatch):
    first = jnp.asarray(stripes(2, 3, 4), jnp.float32)
    second = jnp.asarray(stripes(3, 5, 4), jnp.float32)

    @jax.jit
    def at_once(first, second):
        distances = path_distance.stripe_distances(first, second)
        return path_distance.shortest_path(distances)

    whole = at_once(first, second)
    assert whole.shape == (3, 5)
    monkeypatch.setattr(path_distance, "_BLOCK", 1)
    found = path_distance.path_distances(first, second)
    np.testing.assert_allclose(found, whole, rtol=1e-6)


def test_gradients_are_those_of_differences():
    with double_precision.float64():
        first, second = jnp.asarray(stripes(4, 3, 4)), jnp.asarray(stripes(5, 2, 5))
        program = jax.jit(path_distance.path_distances)
        check_grads(program, (first, second), order=1, modes=["rev"])
        check_grads(jax.jit(euclidean_distances), (first[0], second[0]), order=1)


def test_an_image_is_at_no_distance_of_itself_with_a_finite_gradient():
    same = jnp.asarray(stripes(6, 3, 4), jnp.float32)

    @jax.jit
    def gradient(images, others):
        def total(images):
            return path_distance.path_distances(images, others).sum()

        return jax.grad(total)(images)

    diagonal = jnp.diagonal(
        path_distance.stripe_distances(same, same), axis1=2, axis2=3
    )
    np.testing.assert_array_equal(diagonal[np.arange(3), np.arange(3)], 0)
    found = np.asarray(gradient(same, same))
    assert np.isfinite(found).all() and found.any()
    equal = jnp.ones((3, 4, 6))
    np.testing.assert_array_equal(gradient(equal, equal), 0)


def test_lengths_that_overflow_an_exponential_are_taken():
    far = jnp.full((1, 3, 6), 1e4)

    @jax.jit
    def with_gradient(images, others):
        def total(images):
            return path_distance.path_distances(images, others).sum()

        return jax.value_and_grad(total)(images)

    found, gradient = with_gradient(far, -far)
    assert found == 5  # as many stripes as a path has, 1 each
    np.testing.assert_array_equal(gradient, 0)


def test_the_path_that_is_drawn_is_the_shortest():
    for seed in range(5):
        distances = np.random.default_rng(seed).uniform(size=(4, 6))
        path = path_distance.traced_path(distances)
        assert path[0] == (0, 0) and path[-1] == (3, 5)
        steps = set(map(tuple, np.diff(path, axis=0)))
        assert steps <= {(0, 1), (1, 0)}
        total = sum(distances[step] for step in path)
        assert total == pytest.approx(plain_shortest_path(distances))
    ties = path_distance.traced_path(np.zeros((2, 2)))
    assert ties == [(0, 0), (0, 1), (1, 1)]
