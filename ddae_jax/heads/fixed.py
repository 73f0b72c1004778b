"""Heads that are fitted to features as they are: logistic regression, ridge, kNN."""

import dataclasses
from typing import Any, Protocol

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.heads import knn, logistic, ridge

Features = Float[np.ndarray, "count features"]
Result = tuple[float, float, dict[str, Any]]
"""(held-out accuracy, test accuracy, details): in [0, 1], in [0, 1], JSON-able."""


@dataclasses.dataclass(frozen=True)
class FrozenFeatures:
    """What a head learns from, and is measured on.

    Attributes:
      name: for the log.
      train: features of the labelled images.
      labels: of them.
      held_out: marks those that choose.
      test: features of the test images.
      test_labels: of them.
      class_count: of the data set.
    """

    name: str
    train: Features
    labels: Int[np.ndarray, "count"]
    held_out: Bool[np.ndarray, "count"]
    test: Features
    test_labels: Int[np.ndarray, "tests"]
    class_count: int


class FixedHead(Protocol):
    """A head that is fitted at once."""

    def score(self, features: FrozenFeatures) -> Result:
        """Accuracy on held-out images of a fit that has not seen them, and on test
        images of a fit that has. Whatever a head chooses, it chooses by the former."""

    def protocol(self) -> dict[str, Any]:
        """What a result says of how it was measured."""


@dataclasses.dataclass(frozen=True)
class Logistic:
    """Multinomial regression on standardised features, to convergence.

    Attributes:
      l2: penalty, as in `logistic.fit`.
    """

    l2: float

    def score(self, features: FrozenFeatures) -> Result:
        """Two fits."""

        def fit(inputs, labels):
            head = logistic.fit(inputs, labels, features.class_count, self.l2)
            if not head.converged:
                logging.warning(
                    "%s stopped at gradient norm %.1e",
                    features.name,
                    head.gradient_norm,
                )
            return head

        train, labels, held_out = features.train, features.labels, features.held_out
        choosing = fit(train[~held_out], labels[~held_out])
        by_held_out = choosing.accuracy(train[held_out], labels[held_out])
        final = fit(train, labels)
        return by_held_out, final.accuracy(features.test, features.test_labels), {}

    def protocol(self) -> dict[str, Any]:
        """The penalty."""
        return {"l2": self.l2, "standardised": True}


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Least squares on standardised features.

    Attributes:
      l2: penalties, of which one is chosen on held-out images.
    """

    l2: tuple[float, ...]

    def score(self, features: FrozenFeatures) -> Result:
        """Sweeps the penalties on held-out images; one fit on all."""
        penalties = sorted(self.l2, reverse=True)
        train, labels, held_out = features.train, features.labels, features.held_out
        classes = features.class_count
        choosing = ridge.fit(train[~held_out], labels[~held_out], classes, penalties)
        by_l2 = choosing.accuracies(train[held_out], labels[held_out])
        # The first of equals: the strongest penalty.
        best = int(np.argmax(by_l2))
        final = ridge.fit(train, labels, classes, penalties[best : best + 1])
        (test,) = final.accuracies(features.test, features.test_labels)
        swept = {
            f"{l2:g}": float(value) for l2, value in zip(penalties, by_l2, strict=True)
        }
        details = {"l2": penalties[best], "held_out_by_l2": swept}
        return float(by_l2[best]), float(test), details

    def protocol(self) -> dict[str, Any]:
        """The sweep."""
        return {
            "l2": "swept, chosen on held-out images",
            "l2_swept": list(self.l2),
            "standardised": True,
        }


@dataclasses.dataclass(frozen=True)
class NearestNeighbours:
    """The vote of the nearest training images.

    Attributes:
      k: how many vote.
      metrics: "cosine", "euclidean": one is chosen on held-out images.
      temperature: of cosine votes; 0 for one vote each.
    """

    k: int
    metrics: tuple[str, ...]
    temperature: float

    def score(self, features: FrozenFeatures) -> Result:
        """Nothing is trained: held-out and test images ask their neighbours.

        Raises:
          UserError: fewer labelled images than neighbours.
        """
        train, labels, held_out = features.train, features.labels, features.held_out
        seen = int((~held_out).sum())
        if self.k > seen:
            raise UserError(
                f"config.probe.knn_k: {self.k} is more than the {seen} labelled images "
                "that are not held out"
            )

        def accuracy(metric, train, labels, queries, wanted):
            similarities, indices = knn.neighbours(train, queries, self.k, metric)
            temperature = self.temperature if metric == "cosine" else 0.0
            found = knn.vote(
                similarities, labels[indices], features.class_count, temperature
            )
            return float(np.mean(found == wanted))

        choosing = train[~held_out], labels[~held_out], train[held_out]
        final = train, labels, features.test
        by_metric = {
            metric: {
                "held_out": accuracy(metric, *choosing, labels[held_out]),
                "test": accuracy(metric, *final, features.test_labels),
            }
            for metric in self.metrics
        }
        best = max(by_metric, key=lambda metric: by_metric[metric]["held_out"])
        chosen = by_metric[best]
        details = {"metric": best, "by_metric": by_metric}
        return chosen["held_out"], chosen["test"], details

    def protocol(self) -> dict[str, Any]:
        """How neighbours are found and vote."""
        return {
            "k": self.k,
            "metric": f"{' or '.join(self.metrics)}, chosen on held-out images",
            "cosine_temperature": self.temperature or "none: one vote each",
            "euclidean_votes": "one each",
            "standardised": False,
        }
