"""Mean 0 and spread 1 for every feature, as measured on the training features."""

import numpy as np
from jaxtyping import Float


def moments(
    features: Float[np.ndarray, "count features"],
) -> tuple[Float[np.ndarray, "features"], Float[np.ndarray, "features"]]:
    """Mean and standard deviation of each feature, in float64.

    The standard deviation is 1 where a feature is constant, up to rounding.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    # A constant feature can have a spread of rounding errors: do not blow them up.
    scale[scale <= 1e-6 * np.abs(mean)] = 1.0
    scale[scale == 0] = 1.0
    return mean, scale
