"""Pictures of features without labels: principal components as colours, k-means."""

import numpy as np
from jaxtyping import Float, Int

from ddae_jax.errors import UserError

# To fit components and centres; all positions are then shown.
_FITTED = 20_000
_TAILS = (1.0, 99.0)  # percentiles that become 0 and 1: outliers would grey the rest


def principal_colours(
    features: Float[np.ndarray, "... channels"], seed: int = 0
) -> tuple[Float[np.ndarray, "... 3"], float]:
    """The first three principal components of all positions as red, green and blue.

    All positions share one basis and one scale: a colour means the same everywhere.
    Components that do not exist (fewer channels or positions) are 0.5.

    Args:
      features: finite.
      seed: of the positions that are fitted, where there are many.

    Returns:
      colours in [0, 1], and the share of the variance that the components explain.
    """
    from sklearn.decomposition import PCA  # takes a second, which other tasks need not

    points = features.reshape(-1, features.shape[-1])
    fitted = _some(points, seed)
    total = float(fitted.var(axis=0, dtype=np.float64).sum())
    if total == 0:
        return np.full((*features.shape[:-1], 3), 0.5, np.float32), 0.0
    count = min(3, *fitted.shape)
    analysis = PCA(count, svd_solver="full").fit(fitted)
    components = analysis.transform(points)
    low, high = np.percentile(components, _TAILS, axis=0)
    # A component without spread is rounding errors.
    flat = high - low <= 1e-6 * max(np.abs(points).max(), 1e-30)
    scaled = (components - low) / np.where(flat, 1.0, high - low)
    colours = np.full((len(points), 3), 0.5, np.float32)
    colours[:, :count] = np.where(flat, 0.5, scaled.clip(0, 1))
    share = float(np.sum(analysis.explained_variance_)) * (1 - 1 / len(fitted))
    return colours.reshape(*features.shape[:-1], 3), share / total


def k_means(
    features: Float[np.ndarray, "... channels"], clusters: int, seed: int = 0
) -> tuple[Int[np.ndarray, "..."], float]:
    """Clusters all positions together (k-means++, the best of four starts).

    Args:
      features: finite.
      clusters: how many.
      seed: of the starts.

    Returns:
      cluster of each position, 0 the largest; and the share of the variance that lies
      between the clusters.

    Raises:
      UserError: fewer different positions than clusters.
    """
    from sklearn.cluster import KMeans

    points = features.reshape(-1, features.shape[-1])
    fitted = _some(points, seed)
    different = len(np.unique(fitted, axis=0))
    if different < clusters:
        raise UserError(
            f"{clusters} clusters of {different} different positions; ask for fewer"
        )
    found = KMeans(clusters, n_init=4, random_state=seed).fit(fitted)
    labels = found.predict(points)
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    rank = np.argsort(order)
    total = len(fitted) * float(fitted.var(axis=0, dtype=np.float64).sum())
    return rank[labels].reshape(features.shape[:-1]), 1 - float(found.inertia_) / total


def _some(points: np.ndarray, seed: int) -> np.ndarray:
    if len(points) <= _FITTED:
        return points
    chosen = np.random.default_rng(seed).choice(len(points), _FITTED, replace=False)
    return points[np.sort(chosen)]
