"""What every metric asks of the features it is given."""

import numpy as np
from jaxtyping import Array, Float

from ddae_jax.errors import UserError


def checked_features(
    features: Float[np.ndarray | Array, "..."],
    name: str,
    at_least: int = 2,
    width: int | None = None,
) -> Float[np.ndarray, "samples width"]:
    """Returns `features` as a numpy array.

    Args:
      features: one row a sample.
      name: what errors call them.
      at_least: number of samples that the metric needs.
      width: that the features must have; None accepts any.

    Raises:
      UserError: too few samples, another width or shape, or a value not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise UserError(f"{name}: one row a sample is needed, not {features.shape}")
    if len(features) < at_least:
        raise UserError(f"{name}: {len(features)} samples, at least {at_least} needed")
    if width is not None and features.shape[1] != width:
        raise UserError(f"{name}: features of width {features.shape[1]}, not {width}")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise UserError(f"{name}: sample {bad[0]} has a feature that is not finite")
    return features
