"""Classifiers on features that stay as they are: logistic regression, ridge, kNN.

Features are extracted once, and every cell of the grid is then fitted on its own: the
memory is that of the features of one cell, where they come from the cache.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.features import cache as feature_cache
from ddae_jax.features.cache import FeatureCache
from ddae_jax.features.encode import Encode, encode_set
from ddae_jax.heads import knn, logistic, ridge
from ddae_jax.runtime.random import stream
from ddae_jax.settings.probe import ProbeSettings
from ddae_jax.tasks.probe.grid import Accuracies, cell_parts

Features = Float[np.ndarray, "count features"]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """One network's features of any source.

    Attributes:
      encode: the features.
      params: for it, on the mesh.
      mesh: of the devices.
      times: the process's own.
      batch_size: over all devices, a multiple of their number.
      draws: of the noise, over which features are averaged.
      cache: on disk; None: they are kept in memory.
    """

    encode: Encode
    params: dict
    mesh: Mesh
    times: tuple[float, ...]
    batch_size: int
    draws: int = 1
    cache: FeatureCache | None = None

    def __call__(
        self, source: Source, key: PRNGKeyArray, seed: int
    ) -> Callable[[Sequence[tuple[int, str]]], Features]:
        """Extracts every tap at every time.

        Args:
          key: the number of the draw is folded in.
          seed: what the cache calls it.

        Returns:
          (index of the time, tap) of the parts of a cell -> its features.
        """
        draws = []
        for draw in range(self.draws):
            draw_key = jax.random.fold_in(key, draw)
            found = self._extract(source, draw_key, f"seed{seed}_draw{draw}")
            if self.cache is None and draws:
                # In memory a running sum will do.
                for total, features in zip(draws[0], found, strict=True):
                    for tap in total:
                        total[tap] += features[tap]
            else:
                draws.append(found)

        def features_of(parts):
            return np.concatenate(
                [
                    sum(np.asarray(draw[i][tap]) for draw in draws) / self.draws
                    for i, tap in parts
                ],
                axis=1,
                dtype=np.float32,
            )

        return features_of

    def _extract(self, source, key, label):
        common = (self.params, self.mesh, source, self.times, key, self.batch_size)
        if self.cache is None:
            return encode_set(self.encode, *common)
        return feature_cache.encode_set(self.cache, self.encode, *common, label)


@dataclasses.dataclass(frozen=True)
class ClassifierInput:
    """What one cell's classifier learns from, and is measured on.

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


Result = tuple[float, float, dict]
"""(held-out accuracy, test accuracy, details)."""


def score(
    probe: ProbeSettings,
    extract: Extractor,
    train: Source,
    held_out: Bool[np.ndarray, "count"],
    test: Source,
    seed: int,
) -> Accuracies:
    """Fits config.probe.classifier to every cell."""
    classify = CLASSIFIERS[probe.classifier]
    train_features = extract(train, stream(seed, "probe/train_noise"), seed)
    test_features = extract(test, stream(seed, "probe/test_noise"), seed)
    by_held_out, by_test, details = [], [], []
    for column in cell_parts(extract.encode.names, len(extract.times), probe.concat):
        results = {
            name: classify(
                probe,
                ClassifierInput(
                    name,
                    train_features(parts),
                    train.labels,
                    held_out,
                    test_features(parts),
                    test.labels,
                    len(train.class_names),
                ),
            )
            for name, parts in column.items()
        }
        for found, part in zip((by_held_out, by_test, details), range(3), strict=True):
            found.append({name: result[part] for name, result in results.items()})
    return Accuracies(by_held_out, by_test, details if any(map(any, details)) else [])


def protocol(probe: ProbeSettings) -> dict:
    """What the JSON file says of config.probe.classifier, beside the counts."""
    settings = {
        "logistic": {"l2": probe.l2, "standardised": True},
        "ridge": {
            "l2": "swept, chosen on held-out images",
            "l2_swept": list(probe.ridge_l2),
            "standardised": True,
        },
        "knn": {
            "k": probe.knn_k,
            "metric": f"{' or '.join(probe.knn_metric)}, chosen on held-out images",
            "cosine_temperature": probe.knn_temperature or "none: one vote each",
            "euclidean_votes": "one each",
            "standardised": False,
        },
    }
    return settings[probe.classifier] | {"augmentation": "none"}


def _logistic(probe: ProbeSettings, cell: ClassifierInput) -> Result:
    def fit(inputs, labels):
        head = logistic.fit(inputs, labels, cell.class_count, probe.l2)
        if not head.converged:
            logging.warning(
                "probe: %s stopped at gradient norm %.1e", cell.name, head.gradient_norm
            )
        return head

    held_out = cell.held_out
    choosing = fit(cell.train[~held_out], cell.labels[~held_out])
    by_held_out = choosing.accuracy(cell.train[held_out], cell.labels[held_out])
    final = fit(cell.train, cell.labels)
    return by_held_out, final.accuracy(cell.test, cell.test_labels), {}


def _ridge(probe: ProbeSettings, cell: ClassifierInput) -> Result:
    penalties = sorted(probe.ridge_l2, reverse=True)
    held_out = cell.held_out
    choosing = ridge.fit(
        cell.train[~held_out], cell.labels[~held_out], cell.class_count, penalties
    )
    by_l2 = choosing.accuracies(cell.train[held_out], cell.labels[held_out])
    # The first of equals: the strongest penalty.
    best = int(np.argmax(by_l2))
    final = ridge.fit(
        cell.train, cell.labels, cell.class_count, penalties[best : best + 1]
    )
    (test,) = final.accuracies(cell.test, cell.test_labels)
    swept = {
        f"{l2:g}": float(value) for l2, value in zip(penalties, by_l2, strict=True)
    }
    details = {"l2": penalties[best], "held_out_by_l2": swept}
    return float(by_l2[best]), float(test), details


def _knn(probe: ProbeSettings, cell: ClassifierInput) -> Result:
    held_out = cell.held_out
    seen = int((~held_out).sum())
    if probe.knn_k > seen:
        raise UserError(
            f"config.probe.knn_k: {probe.knn_k} is more than the {seen} labelled "
            "images that are not held out"
        )

    def accuracy(train, train_labels, queries, labels, metric):
        similarities, indices = knn.neighbours(train, queries, probe.knn_k, metric)
        temperature = probe.knn_temperature if metric == "cosine" else 0.0
        predicted = knn.vote(
            similarities, train_labels[indices], cell.class_count, temperature
        )
        return float(np.mean(predicted == labels))

    by_metric = {
        metric: {
            "held_out": accuracy(
                cell.train[~held_out],
                cell.labels[~held_out],
                cell.train[held_out],
                cell.labels[held_out],
                metric,
            ),
            "test": accuracy(
                cell.train, cell.labels, cell.test, cell.test_labels, metric
            ),
        }
        for metric in probe.knn_metric
    }
    best = max(by_metric, key=lambda metric: by_metric[metric]["held_out"])
    chosen = by_metric[best]
    return (
        chosen["held_out"],
        chosen["test"],
        {"metric": best, "by_metric": by_metric},
    )


CLASSIFIERS: dict[str, Callable[[ProbeSettings, ClassifierInput], Result]] = {
    "logistic": _logistic,
    "ridge": _ridge,
    "knn": _knn,
}
"""Value of config.probe.classifier -> function of a cell."""
