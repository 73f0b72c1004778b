"""Colours of positions, fitted on some images and then quick to give to others.

Palettes of one tap at several noise levels can agree: the same colour then means about
the same at all of them. clusters.py draws images that are all there at once.
"""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float, Int

from ddae_jax.heads.clusters import TAILS

Points = Float[np.ndarray, "count channels"]


@dataclasses.dataclass(frozen=True, eq=False)
class Palette:
    """Principal components and cluster centres of one tap at one noise level.

    Attributes:
      mean: of the positions that were fitted.
      axes: three orthonormal directions as columns; 0 where there are fewer.
      low, high: what becomes 0 and 1 along each axis.
      centres: of k-means, the largest cluster first.
      labels: cluster of each position that was fitted.
    """

    mean: Float[np.ndarray, "channels"]
    axes: Float[np.ndarray, "channels 3"]
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]
    centres: Float[np.ndarray, "clusters channels"]
    labels: Int[np.ndarray, "count"] = dataclasses.field(repr=False)

    def colours(
        self, features: Float[np.ndarray, "*shape channels"]
    ) -> Float[np.ndarray, "*shape 3"]:
        """Red, green and blue in [0, 1]; 0.5 along an axis without spread."""
        along = (features - self.mean) @ self.axes
        spread = self.high - self.low
        # Without spread it is rounding errors.
        flat = spread <= 1e-6 * max(np.abs(self.mean).max(), np.abs(self.high).max())
        scaled = (along - self.low) / np.where(flat, 1.0, spread)
        return np.where(flat, 0.5, scaled.clip(0, 1)).astype(np.float32)

    def clusters(
        self, features: Float[np.ndarray, "*shape channels"]
    ) -> Int[np.ndarray, "*shape"]:
        """The nearest centre of each position."""
        # |x - c|^2 without |x|^2, which is the same for all centres.
        half = np.sum(self.centres**2, axis=1) / 2
        return np.argmin(half - features @ self.centres.T, axis=-1)


def fit(
    points: Points, clusters: int, seed: int = 0, like: Palette | None = None
) -> Palette:
    """Fits a palette.

    Args:
      points: finite; of more than one position.
      clusters: how many; there are fewer where fewer positions differ.
      seed: of k-means and of randomised solvers.
      like: of the same positions of the same images at another noise level: the axes
        are turned within the three components so that they lie nearest to its axes, and
        k-means starts from its clusters.
    """
    mean, axes = _principal(points, seed)
    if like is not None:
        # The orthogonal Procrustes problem.
        left, _, right = np.linalg.svd(axes.T @ like.axes)
        axes = axes @ (left @ right)
    low, high = np.percentile((points - mean) @ axes, TAILS, axis=0)
    centres, labels = _centres(points, clusters, seed, like)
    return Palette(mean, axes, low, high, centres, labels)


def _principal(points, seed):
    from sklearn.decomposition import PCA  # takes a second, which other tasks need not

    count = min(3, *points.shape)
    with warnings.catch_warnings():
        # Equal positions have no variance to divide by.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = PCA(count, random_state=seed).fit(points)
    axes = np.zeros((points.shape[1], 3), np.float32)
    axes[:, :count] = found.components_.T
    return found.mean_, axes


def _centres(points, clusters, seed, like):
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if like is not None:
        wanted = len(like.centres)
        start = np.stack([points[like.labels == i].mean(0) for i in range(wanted)])
        words = {"init": start, "n_init": 1}
    else:
        wanted = min(clusters, len(np.unique(points, axis=0)))
        words = {"n_init": 4}
    with warnings.catch_warnings():
        # At another noise level fewer may differ.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(wanted, random_state=seed, **words).fit(points)
    if like is not None:
        return found.cluster_centers_, found.labels_
    sizes = np.bincount(found.labels_, minlength=wanted)
    order = np.argsort(-sizes, kind="stable")
    return found.cluster_centers_[order], np.argsort(order)[found.labels_]
