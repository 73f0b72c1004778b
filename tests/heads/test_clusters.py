"""Principal components as colours, and k-means, over maps of any shapes."""

import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.heads import clusters

RNG = np.random.default_rng(0)


def test_principal_colours_are_those_of_numpys_svd():
    features = RNG.normal(size=(3, 5, 5, 6)) * np.array([9, 5, 3, 1, 0.5, 0.1])
    colours, explained = clusters.principal_colours(features)
    colours = np.stack(colours)
    assert colours.shape == (3, 5, 5, 3) and 0 <= colours.min() < colours.max() <= 1
    points = features.reshape(-1, 6) - features.reshape(-1, 6).mean(0)
    _, values, basis = np.linalg.svd(points, full_matrices=False)
    assert explained == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    for i in range(3):
        ours, theirs = colours[..., i].ravel(), points @ basis[i]
        inside = (ours > 0) & (ours < 1)
        fit = np.corrcoef(ours[inside], theirs[inside])[0, 1]
        assert abs(fit) == pytest.approx(1, abs=1e-6)


def test_colours_of_what_has_less_than_three_components():
    line = np.linspace(0, 1, 16).reshape(1, 4, 4, 1)
    colours, explained = clusters.principal_colours(line)
    (colours,) = colours
    assert explained == pytest.approx(1)
    np.testing.assert_allclose(colours[..., 1:], 0.5)
    assert np.ptp(colours[..., 0]) == pytest.approx(1)
    constant, explained = clusters.principal_colours(np.ones((1, 4, 4, 5)))
    np.testing.assert_allclose(constant, 0.5)
    assert explained == 0


def test_k_means_finds_what_was_put_in_and_numbers_it_by_size():
    truth = RNG.permutation(np.repeat([0, 1, 2], [30, 20, 14])).reshape(4, 4, 4)
    centres = np.array([[0, 0], [10, 0], [0, 10]])
    features = centres[truth] + 0.1 * RNG.normal(size=(4, 4, 4, 2))
    labels, share = clusters.k_means(features, 3)
    np.testing.assert_array_equal(labels, truth)
    means = np.stack([features[truth == c].mean(0) for c in range(3)])
    within = ((features - means[truth]) ** 2).sum()
    total = ((features - features.mean((0, 1, 2))) ** 2).sum()
    assert share == pytest.approx(1 - within / total)
    with pytest.raises(UserError, match="3 clusters of 2 different positions"):
        clusters.k_means([centres[[0, 0, 1, 1]]], 3)


@pytest.mark.parametrize("fitted", [20_000, 25])
def test_maps_of_several_shapes_are_as_one_list_of_positions(monkeypatch, fitted):
    monkeypatch.setattr(clusters, "_FITTED", fitted)
    maps = [RNG.normal(size=(*shape, 4)) for shape in ((3, 5), (6, 2), (1, 1), (4, 4))]
    everything = np.concatenate([one.reshape(-1, 4) for one in maps])
    for function, more in ((clusters.principal_colours, ()), (clusters.k_means, (3,))):
        apart, share = function(maps, *more)
        (together,), expected = function([everything], *more)
        assert share == pytest.approx(expected)
        assert [one.shape[:2] for one in apart] == [one.shape[:2] for one in maps]
        flat = np.concatenate([one.reshape(-1, *together.shape[1:]) for one in apart])
        np.testing.assert_allclose(flat, together, atol=1e-6)
