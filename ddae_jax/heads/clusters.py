"""Pictures of features without labels: principal components as colours, k-means."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange, unpack
from jaxtyping import Float, Int

from ddae_jax.errors import UserError

# To fit components and centres; all positions are then shown.
_FITTED = 20_000
TAILS = (1.0, 99.0)
"""Percentiles that become 0 and 1: outliers would grey the rest."""


Maps = Sequence[Float[np.ndarray, "... channels"]]
"""Features of positions, such as (rows, columns, channels), each map of any shape."""


def principal_colours(
    maps: Maps, seed: int = 0
) -> tuple[list[Float[np.ndarray, "... 3"]], float]:
    """The first three principal components of all positions as red, green and blue.

    All positions of all maps share one basis and one scale: a colour means the same
    everywhere. Components that do not exist (fewer channels or positions) are 0.5.

    Args:
      maps: finite; at least one.
      seed: of the positions that are fitted, where there are many.

    Returns:
      colours in [0, 1] of each map, and the share of the variance that the components
      explain.
    """
    from sklearn.decomposition import PCA  # takes a second, which other tasks need not

    fitted = _some(maps, seed)
    total = float(fitted.var(axis=0, dtype=np.float64).sum())
    if total == 0:
        return [np.full((*one.shape[:-1], 3), 0.5, np.float32) for one in maps], 0.0
    count = min(3, *fitted.shape)
    analysis = PCA(count, svd_solver="full").fit(fitted)
    components = np.concatenate([analysis.transform(_points(one)) for one in maps])
    low, high = np.percentile(components, TAILS, axis=0)
    # A component without spread is rounding errors.
    largest = max(np.abs(one).max() for one in maps)
    flat = high - low <= 1e-6 * max(largest, 1e-30)
    scaled = (components - low) / np.where(flat, 1.0, high - low)
    colours = np.full((len(components), 3), 0.5, np.float32)
    colours[:, :count] = np.where(flat, 0.5, scaled.clip(0, 1))
    share = float(np.sum(analysis.explained_variance_)) * (1 - 1 / len(fitted))
    drawn = unpack(colours, [one.shape[:-1] for one in maps], "* colour")
    return drawn, share / total


def k_means(
    maps: Maps, clusters: int, seed: int = 0
) -> tuple[list[Int[np.ndarray, "..."]], float]:
    """Clusters all positions of all maps together (k-means++, the best of four starts).

    Args:
      maps: finite; at least one.
      clusters: how many.
      seed: of the starts.

    Returns:
      cluster of each position of each map, 0 the largest; and the share of the variance
      that lies between the clusters.

    Raises:
      UserError: fewer different positions than clusters.
    """
    from sklearn.cluster import KMeans

    fitted = _some(maps, seed)
    different = len(np.unique(fitted, axis=0))
    if different < clusters:
        raise UserError(
            f"{clusters} clusters of {different} different positions; ask for fewer"
        )
    found = KMeans(clusters, n_init=4, random_state=seed).fit(fitted)
    labels = [found.predict(_points(one)) for one in maps]
    sizes = sum(np.bincount(part, minlength=clusters) for part in labels)
    rank = np.argsort(np.argsort(-sizes, kind="stable"))
    total = len(fitted) * float(fitted.var(axis=0, dtype=np.float64).sum())
    ranked = unpack(rank[np.concatenate(labels)], [one.shape[:-1] for one in maps], "*")
    return ranked, 1 - float(found.inertia_) / total


def _points(one: np.ndarray) -> np.ndarray:
    return rearrange(one, "... c -> (...) c")


def _some(maps: Maps, seed: int) -> np.ndarray:
    """Positions to fit: all, or a random choice out of all maps together."""
    points = [_points(one) for one in maps]
    ends = np.cumsum([len(part) for part in points])
    if ends[-1] <= _FITTED:
        return np.concatenate(points)
    chosen = np.random.default_rng(seed).choice(ends[-1], _FITTED, replace=False)
    parts = np.split(np.sort(chosen), np.searchsorted(np.sort(chosen), ends[:-1]))
    return np.concatenate(
        [
            part[index - (end - len(part))]
            for part, index, end in zip(points, parts, ends, strict=True)
        ]
    )
