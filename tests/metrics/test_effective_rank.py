"""The effective rank where it is known."""

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.metrics.effective_rank import effective_rank

RNG = np.random.default_rng(0)


def directions(count, width=6):
    """Orthonormal columns of mean 0, and rows to place them in."""
    columns = RNG.standard_normal((40, count))
    columns = np.linalg.qr(columns - columns.mean(0))[0]
    rows = np.linalg.qr(RNG.standard_normal((width, width)))[0][:count]
    return columns, rows


def features_of(values, mean=0.0):
    columns, rows = directions(len(values))
    return (columns * values @ rows + mean).astype(np.float32)


def test_features_on_a_line_have_rank_one():
    assert effective_rank(features_of([3.0], mean=5.0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_equal_directions_are_counted(count):
    assert effective_rank(features_of([2.0] * count)) == pytest.approx(count, rel=1e-4)


def test_two_directions_count_by_their_shares():
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    found = effective_rank(features_of([3.0, 1.0], mean=-2.0))
    assert found == pytest.approx(np.exp(entropy), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_features_have_rank_one(value):
    assert effective_rank(np.full((30, 5), value, np.float32)) == 1
    one = RNG.standard_normal(5).astype(np.float32)
    assert effective_rank(np.tile(value * one, (30, 1))) == 1


def test_what_rounding_alone_makes_different_has_rank_one():
    ones = np.ones((30, 5), np.float32)
    odd = RNG.random(ones.shape) < 0.5
    assert effective_rank(np.where(odd, np.nextafter(ones, 2), ones)) == 1


def test_two_samples_or_more_are_needed():
    with pytest.raises(UserError, match="1 samples, at least 2"):
        effective_rank(np.ones((1, 3), np.float32))
