"""The Frechet distance between Gaussian fits of features (Heusel et al. 2017).

On Inception's features it is FID. Sums are float64 and are taken as features arrive,
so memory does not depend on the number of samples.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from ddae_jax.errors import UserError
from ddae_jax.metrics.checks import checked_features


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A Gaussian fit of features.

    Attributes:
      count: number of samples; None where a file does not tell.
      mean: of the features, float64.
      covariance: with count - 1 in the denominator, float64.
    """

    count: int | None
    mean: Float[np.ndarray, "width"]
    covariance: Float[np.ndarray, "width width"]


@dataclasses.dataclass(frozen=True)
class FeatureSums:
    """Sums over samples: all that a Gaussian fit needs.

    Attributes:
      count: number of samples.
      total: sum of x - origin, float64.
      product: sum of (x - origin) (x - origin)^T, float64.
      origin: near the mean, so that nothing cancels: the first sample.
    """

    count: int
    total: Float[np.ndarray, "width"]
    product: Float[np.ndarray, "width width"]
    origin: Float[np.ndarray, "width"]

    def add(self, features: Float[np.ndarray, "samples width"]) -> "FeatureSums":
        """Returns the sums with a batch of any size added.

        Raises:
          UserError: another width, or a feature that is not finite.
        """
        return self.merge(feature_sums(features, self.origin))

    def merge(self, other: "FeatureSums") -> "FeatureSums":
        """Returns the sums over the samples of both.

        Raises:
          UserError: the widths differ.
        """
        if len(other.total) != len(self.total):
            raise UserError(
                f"features of width {len(other.total)}, not {len(self.total)}"
            )
        move = other.origin - self.origin
        total, product = other.total, other.product
        if move.any():
            cross = np.outer(total, move)
            product = product + cross + cross.T + other.count * np.outer(move, move)
            total = total + other.count * move
        return FeatureSums(
            self.count + other.count,
            self.total + total,
            self.product + product,
            self.origin,
        )

    def statistics(self) -> Statistics:
        """Returns the Gaussian fit.

        Raises:
          UserError: fewer than two samples.
        """
        if self.count < 2:
            raise UserError(f"{self.count} samples: statistics need at least 2")
        mean = self.total / self.count
        covariance = self.product - self.count * np.outer(mean, mean)
        return Statistics(self.count, mean + self.origin, covariance / (self.count - 1))


def feature_sums(
    features: Float[np.ndarray, "samples width"],
    origin: Float[np.ndarray, "origin_width"] | None = None,
) -> FeatureSums:
    """Returns the sums over a batch of one sample or more.

    Args:
      features: of any float type.
      origin: that the sums are taken about; None is the first sample.

    Raises:
      UserError: no samples, another width than the origin's, or a value not finite.
    """
    width = None if origin is None else len(origin)
    features = checked_features(features, "features", 1, width).astype(np.float64)
    origin = features[0].copy() if origin is None else origin
    centred = features - origin
    return FeatureSums(len(features), centred.sum(axis=0), centred.T @ centred, origin)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Returns |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of S_a S_b, which
    are those of the symmetric S_a^(1/2) S_b S_a^(1/2): no matrix root is needed that
    could turn out complex, and covariances may be singular.

    Raises:
      UserError: the widths differ.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"statistics of width {len(a.mean)} and {len(b.mean)} cannot be compared"
        )
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    difference = a.mean - b.mean
    return float(
        difference @ difference
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2 * trace_of_root
    )
