"""How many directions features fill."""

import numpy as np
from jaxtyping import Float

from ddae_jax.metrics.checks import checked_features


def effective_rank(features: Float[np.ndarray, "samples width"]) -> float:
    """The effective rank of features about their mean (Roy & Vetterli 2007, def. 1).

    exp of the entropy of the singular values, taken as shares of their sum: 1 where all
    features lie on a line, at most min(samples - 1, width). What is within the rounding
    of the features, as float32, counts as zero.

    Raises:
      UserError: fewer than two samples, or a feature that is not finite.
    """
    features = np.asarray(checked_features(features, "features"), np.float64)
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    values = values[values > np.finfo(np.float32).eps * np.linalg.norm(features)]
    if not values.size:
        return 1.0
    shares = values / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))
