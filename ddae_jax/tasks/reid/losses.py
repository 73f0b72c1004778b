"""The loss of one network, or of two that teach each other (arXiv 1711.08184)."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddae_jax.heads import aligned_losses
from ddae_jax.heads.aligned import AlignedFeatures
from ddae_jax.metrics.euclidean import euclidean_distances
from ddae_jax.metrics.path_distance import shortest_path, stripe_distances

Terms = dict[str, Float[Array, ""]]


def unit_length(
    features: Float[Array, "count features"],
) -> Float[Array, "count features"]:
    """Vectors of length 1; 0 stays 0."""
    squares = jnp.square(features).sum(axis=-1, keepdims=True)
    return features / jnp.sqrt(jnp.maximum(squares, 1e-24))


@dataclasses.dataclass(frozen=True)
class Losses:
    """What all networks are trained for together.

    Attributes:
      margin: of the triplet losses.
      local_weight: of the triplet loss of stripes, on the pairs that the global
        distance mined; 0: none.
      identity_weight: of the softmax of persons; 0: none.
      label_smoothing: share of its target that is spread over all persons.
      mutual_identity_weight: of the divergence of two networks' softmaxes.
      mutual_distance_weight: of the difference of their distance matrices.
      normalise: global features to unit length.
    """

    margin: float
    local_weight: float
    identity_weight: float
    label_smoothing: float
    mutual_identity_weight: float
    mutual_distance_weight: float
    normalise: bool

    def __call__(
        self, found: Sequence[AlignedFeatures], labels: Int[Array, "batch"]
    ) -> tuple[Float[Array, ""], Terms]:
        """Returns the loss, summed over the networks, and its terms' means over them.

        Args:
          found: features of one or two networks, of the same images.
          labels: the persons.
        """
        wholes = [unit_length(f.whole) if self.normalise else f.whole for f in found]
        distances = [euclidean_distances(whole, whole) for whole in wholes]
        terms = [
            self._own(features, matrix, labels)
            for features, matrix in zip(found, distances, strict=True)
        ]
        if len(found) == 2:
            for own, other in ((0, 1), (1, 0)):
                terms[own]["mutual_distance"] = aligned_losses.mutual_distance_loss(
                    distances[own], distances[other]
                )
                if self.identity_weight:
                    terms[own]["mutual_identity"] = aligned_losses.mutual_identity_loss(
                        found[own].logits, found[other].logits
                    )
        weights = {
            "global_triplet": 1.0,
            "local_triplet": self.local_weight,
            "identity": self.identity_weight,
            "mutual_distance": self.mutual_distance_weight,
            "mutual_identity": self.mutual_identity_weight,
        }
        total = sum(weights[name] * of[name] for of in terms for name in of)
        means = {name: sum(of[name] for of in terms) / len(terms) for name in terms[0]}
        return total, {"loss": total, **means}

    def _own(self, features, distances, labels) -> Terms:
        pairs = aligned_losses.hard_pairs(distances, labels)
        terms = {
            "global_triplet": aligned_losses.triplet_loss(distances, pairs, self.margin)
        }
        if self.local_weight:
            stripes = features.stripes
            local = shortest_path(stripe_distances(stripes, stripes))
            terms["local_triplet"] = aligned_losses.triplet_loss(
                local, pairs, self.margin
            )
        if self.identity_weight:
            terms["identity"] = aligned_losses.identity_loss(
                features.logits, labels, self.label_smoothing
            )
        return terms
