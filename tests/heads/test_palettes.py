"""Palettes: the same colours wherever they agree, and what k-means and PCA find."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ddae_jax.heads import palettes


def features(seed=0, count=300, channels=8):
    """Three groups of positions, along three directions of different spread."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, channels)) * 0.1
    group = rng.choice(3, count, p=(0.5, 0.3, 0.2))
    points[:, :3] += rng.normal(size=(count, 3)) * (0.5, 0.4, 0.3)
    points[:, 3] += 10 * group
    return points.astype(np.float32), group


def test_colours_are_the_principal_components():
    points, _ = features()
    palette = palettes.fit(points, 3)
    colours = palette.colours(points.reshape(30, 10, -1)).reshape(-1, 3)
    assert colours.min() == 0 and colours.max() == 1
    inside = (colours > 0).all(1) & (colours < 1).all(1)
    assert inside.mean() > 0.9  # of each component a hundredth at either end
    expected = PCA(3).fit_transform(points)
    for axis in range(3):
        correlation = np.corrcoef(colours[inside, axis], expected[inside, axis])[0, 1]
        assert abs(correlation) > 0.9999


def test_clusters_are_those_that_are_there_the_largest_first():
    points, group = features()
    palette = palettes.fit(points, 3)
    np.testing.assert_array_equal(palette.clusters(points), group)
    np.testing.assert_array_equal(palette.labels, group)
    assert palette.clusters(points.reshape(3, 100, -1)).shape == (3, 100)


@pytest.mark.parametrize("seed", range(3))
def test_colours_of_like_palettes_agree_however_the_features_are_turned(seed):
    """As at another noise level: other axes, a shift, and a little noise."""
    points, group = features()
    rng = np.random.default_rng(seed)
    first = palettes.fit(points, 3)
    # Of two components of equal variance the order, and of all the sign, is chance.
    moved = points + 5 + rng.normal(size=points.shape).astype(np.float32) * 0.02
    moved[:, 0] *= 0.8
    alone = palettes.fit(moved, 3)
    agreed = palettes.fit(moved, 3, like=first)
    before, after = first.colours(points), agreed.colours(moved)
    assert np.abs(before - after).mean() < 0.03
    np.testing.assert_array_equal(agreed.clusters(moved), group)
    np.testing.assert_allclose(agreed.axes.T @ agreed.axes, np.eye(3), atol=1e-5)
    # The same three components as without agreement.
    np.testing.assert_allclose(
        agreed.axes @ agreed.axes.T, alone.axes @ alone.axes.T, atol=1e-4
    )


def test_an_order_of_components_that_changes_is_put_right():
    rng = np.random.default_rng(0)
    spread = np.array([3, 2, 1, 0.1])
    points = (rng.normal(size=(500, 4)) * spread).astype(np.float32)
    first = palettes.fit(points, 2)
    moved = points * np.array([1, 3, 1, 1], np.float32)  # the second is now the largest
    alone, agreed = palettes.fit(moved, 2), palettes.fit(moved, 2, like=first)
    turned = np.abs(first.axes.T @ alone.axes)
    assert turned[0, 1] > 0.9 and turned[1, 0] > 0.9
    assert (np.diag(first.axes.T @ agreed.axes) > 0.9).all()


def test_equal_positions_are_grey_and_of_one_cluster():
    points = np.ones((20, 4), np.float32)
    palette = palettes.fit(points, 3)
    np.testing.assert_array_equal(palette.colours(points), 0.5)
    np.testing.assert_array_equal(palette.clusters(points), 0)
    later = palettes.fit(points, 3, like=palette)
    np.testing.assert_array_equal(later.clusters(points), 0)


def test_fewer_channels_than_colours():
    points = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
    colours = palettes.fit(points, 2).colours(points)
    assert np.ptp(colours[:, 0]) == 1 and (colours[:, 1:] == 0.5).all()
