"""Ridge regression on one-hot targets in closed form, for many penalties at once.

For standardised features X, centred one-hot targets Y and n examples, the kernel W
minimises |Y - X W|^2 / n + l2 |W|^2. One eigendecomposition, of X'X or, where there are
fewer examples than features, of XX', gives it for every l2 (Hastie et al., The Elements
of Statistical Learning, 2009, eq. 3.44 and section 18.3.5). All of it in float64.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from ddae_jax.heads import standardise

# Examples that are converted to float64 at a time.
_BLOCK = 8192


@dataclasses.dataclass(frozen=True)
class RidgePath:
    """Fitted classifiers, one a penalty.

    Attributes:
      l2: the penalties.
      mean: of each training feature.
      scale: standard deviation of each training feature; 1 where that is 0.
      kernels: of the linear layers on the standardised features.
      bias: share of each class in training, the bias of all of them.
    """

    l2: tuple[float, ...]
    mean: Float[np.ndarray, "features"]
    scale: Float[np.ndarray, "features"]
    kernels: Float[np.ndarray, "penalties features classes"]
    bias: Float[np.ndarray, "classes"]

    def predict(
        self, features: Float[np.ndarray, "batch features"]
    ) -> Int[np.ndarray, "penalties batch"]:
        """Returns the class of the largest score of each example, for each penalty."""
        kernels = rearrange(self.kernels, "l2 width classes -> width (l2 classes)")
        found = []
        for block in _standardised(features, self.mean, self.scale):
            scores = rearrange(
                block @ kernels, "n (l2 classes) -> n l2 classes", l2=len(self.l2)
            )
            found.append(np.argmax(scores + self.bias, axis=-1))
        return np.concatenate(found).T

    def accuracies(
        self,
        features: Float[np.ndarray, "batch features"],
        labels: Int[np.ndarray, "batch"],
    ) -> Float[np.ndarray, "penalties"]:
        """Returns the share of examples predicted rightly, in [0, 1]."""
        return (self.predict(features) == labels).mean(axis=1)


def fit(
    features: Float[np.ndarray, "count features"],
    labels: Int[np.ndarray, "count"],
    class_count: int,
    l2: Sequence[float],
) -> RidgePath:
    """Standardises the features, and solves for every penalty.

    Args:
      labels: in 0..class_count - 1.
      l2: positive penalties, beside the mean squared error; scikit-learn's alpha is
        count times l2. The bias is free.
    """
    count, width = features.shape
    mean, scale = standardise.moments(features)
    targets = np.eye(class_count)[labels]
    bias = targets.mean(axis=0)
    targets -= bias
    penalties = count * np.asarray(l2, np.float64)[:, None, None]
    if count < width:
        standard = np.concatenate(list(_standardised(features, mean, scale)))
        values, vectors = np.linalg.eigh(standard @ standard.T)
        rotated, back = vectors.T @ targets, standard.T @ vectors
    else:
        gram, moment = np.zeros((width, width)), np.zeros((width, class_count))
        start = 0
        for block in _standardised(features, mean, scale):
            gram += block.T @ block
            moment += block.T @ targets[start : start + len(block)]
            start += len(block)
        values, vectors = np.linalg.eigh(gram)
        rotated, back = vectors.T @ moment, vectors
    # Rounding can leave an eigenvalue of 0 slightly negative.
    values = np.maximum(values, 0)
    kernels = back @ (rotated / (values[:, None] + penalties))
    return RidgePath(tuple(l2), mean, scale, kernels, bias)


def _standardised(features, mean, scale) -> Iterator[np.ndarray]:
    """Yields blocks of examples in float64."""
    for start in range(0, len(features), _BLOCK):
        yield (features[start : start + _BLOCK] - mean) / scale
