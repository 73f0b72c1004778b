"""What AlignedReID is trained for (Zhang et al. 2017, arXiv 1711.08184).

Hard triplets, mined on the global distance alone; the softmax of identities; and what
two networks that learn together want of each other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class HardPairs(NamedTuple):
    """Indices into the batch.

    Attributes:
      positives: of each image, the farthest image of its identity.
      negatives: the nearest image of another identity.
    """

    positives: Int[Array, "batch"]
    negatives: Int[Array, "batch"]


def hard_pairs(
    distances: Float[Array, "batch batch"], identities: Int[Array, "batch"]
) -> HardPairs:
    """Mines the hardest positive and negative of each image (section 3.1).

    Args:
      distances: global ones; the local triplets take the same pairs.
      identities: two different ones or more. An identity with one image is its own
        positive.
    """
    same = identities[:, None] == identities
    return HardPairs(
        jnp.argmax(jnp.where(same, distances, -jnp.inf), axis=1),
        jnp.argmin(jnp.where(same, jnp.inf, distances), axis=1),
    )


def triplet_loss(
    distances: Float[Array, "batch batch"], pairs: HardPairs, margin: float
) -> Float[Array, ""]:
    """Mean of max(0, margin + d(image, positive) - d(image, negative)).

    Args:
      distances: global or local ones.
    """
    images = jnp.arange(len(distances))
    positive = distances[images, pairs.positives]
    negative = distances[images, pairs.negatives]
    return jnp.maximum(margin + positive - negative, 0).mean()


def identity_loss(
    logits: Float[Array, "batch classes"],
    classes: Int[Array, "batch"],
    smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Mean cross-entropy of the softmax of identities.

    Args:
      classes: the identities, counted from 0.
      smoothing: share of the target that is spread over all classes, in [0, 1)
        (Szegedy et al. 2015, arXiv 1512.00567, section 7).
    """
    targets = jax.nn.one_hot(classes, logits.shape[1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def mutual_identity_loss(
    logits: Float[Array, "batch classes"], others: Float[Array, "batch classes"]
) -> Float[Array, ""]:
    """Mean KL divergence of a network's identities from the other network's.

    D(other || own), as in deep mutual learning (Zhang et al. 2017, arXiv 1706.00384,
    eq. 4); the other network is a constant.
    """
    wanted = jax.nn.log_softmax(jax.lax.stop_gradient(others))
    own = jax.nn.log_softmax(logits)
    return optax.losses.kl_divergence_with_log_targets(own, wanted).mean()


def mutual_distance_loss(
    distances: Float[Array, "batch batch"], others: Float[Array, "batch batch"]
) -> Float[Array, ""]:
    """Mean squared difference of the distances of two networks (section 3.2).

    The other network's are constants.
    """
    return jnp.square(distances - jax.lax.stop_gradient(others)).mean()
