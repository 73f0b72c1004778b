"""A small labelled part of a training set."""

import numpy as np
from jaxtyping import Int

from ddae_jax.errors import UserError


def labelled_part(
    labels: Int[np.ndarray, "count"], fraction: float, seed: int
) -> Int[np.ndarray, "chosen"]:
    """Returns which images keep their labels, ascending.

    Stratified: each class gives `fraction` of its images, rounded, and at least one.
    The choice depends on the labels and `seed` alone; a larger fraction of one seed
    holds the smaller.

    Args:
      fraction: in (0, 1].

    Raises:
      UserError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction of the labels is {fraction}, it must be in (0, 1]")
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(round(fraction * len(members)), 1)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))
