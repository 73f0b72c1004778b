"""Heads on features that stay as they are, fitted to every cell of the grid.

Features are extracted once, and every cell of the grid is then fitted on its own: the
memory is that of the features of one cell, where they come from the cache.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, PRNGKeyArray

from ddae_jax.data.source import Source
from ddae_jax.features import cache as feature_cache
from ddae_jax.features.cache import FeatureCache
from ddae_jax.features.encode import Encode, encode_set
from ddae_jax.heads.fixed import FixedHead, FrozenFeatures
from ddae_jax.runtime.random import stream
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


def score(
    head: FixedHead,
    concat: str,
    extract: Extractor,
    train: Source,
    held_out: Bool[np.ndarray, "count"],
    test: Source,
    seed: int,
) -> Accuracies:
    """Fits the head to every cell.

    Args:
      concat: which features make a cell, as in `grid.cell_parts`.
    """
    train_features = extract(train, stream(seed, "probe/train_noise"), seed)
    test_features = extract(test, stream(seed, "probe/test_noise"), seed)
    by_held_out, by_test, details = [], [], []
    for column in cell_parts(extract.encode.names, len(extract.times), concat):
        results = {
            name: head.score(
                FrozenFeatures(
                    name,
                    train_features(parts),
                    train.labels,
                    held_out,
                    test_features(parts),
                    test.labels,
                    len(train.class_names),
                )
            )
            for name, parts in column.items()
        }
        for found, part in zip((by_held_out, by_test, details), range(3), strict=True):
            found.append({name: result[part] for name, result in results.items()})
    return Accuracies(by_held_out, by_test, details if any(map(any, details)) else [])
