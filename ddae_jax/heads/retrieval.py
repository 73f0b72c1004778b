"""Nearest neighbours by cosine in a set that is seen batch by batch."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest images of each query, the nearest first.

    Attributes:
      indices: of the images; -1 where fewer than k have been seen.
      similarities: cosines in [-1, 1]; -inf likewise.
    """

    indices: Int[np.ndarray, "queries k"]
    similarities: Float[np.ndarray, "queries k"]


def none_yet(queries: int, k: int) -> Neighbours:
    """What is known before anything is seen."""
    return Neighbours(
        np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)
    )


def normalise(
    features: Float[np.ndarray, "count features"],
) -> Float[np.ndarray, "count features"]:
    """Divides each row by its norm; a row of zeros stays."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)


def update(
    nearest: Neighbours,
    queries: Float[np.ndarray, "queries features"],
    indices: Int[np.ndarray, "batch"],
    features: Float[np.ndarray, "batch features"],
) -> Neighbours:
    """Looks through one more batch.

    Args:
      queries: normalised.
      indices: of the batch's images.
      features: normalised.

    Returns:
      the k nearest of all that were seen; of equals, the one seen first.
    """
    k = nearest.indices.shape[1]
    similarities = np.concatenate([nearest.similarities, queries @ features.T], axis=1)
    among = np.broadcast_to(indices, (len(queries), len(indices)))
    among = np.concatenate([nearest.indices, among], axis=1)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return Neighbours(
        np.take_along_axis(among, best, 1), np.take_along_axis(similarities, best, 1)
    )


def precision(
    nearest: Neighbours,
    query_labels: Int[np.ndarray, "queries"],
    labels: Int[np.ndarray, "count"],
) -> Float[np.ndarray, "queries"]:
    """Share of each query's neighbours that are of its class, in [0, 1].

    Args:
      labels: of the images that were looked through.

    Raises:
      UserError: fewer images were seen than neighbours are asked for.
    """
    if (nearest.indices < 0).any():
        raise UserError(
            f"{nearest.indices.shape[1]} neighbours of {len(labels)} images"
        )
    return (labels[nearest.indices] == query_labels[:, None]).mean(axis=1)
