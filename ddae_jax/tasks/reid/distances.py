"""The distances by which galleries are ranked, in blocks of rows."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddae_jax.metrics import re_ranking
from ddae_jax.metrics.euclidean import euclidean_distances
from ddae_jax.metrics.path_distance import (
    path_distances,
    shortest_path,
    stripe_distances,
)
from ddae_jax.runtime import log

NAMES = ("global", "local", "summed")
"""Euclidean, of global features; the path's, of stripes; the sum of both."""


class StripedFeatures(NamedTuple):
    """Features of some images."""

    whole: Float[np.ndarray | Array, "images features"]
    stripes: Float[np.ndarray | Array, "images rows local"]


def blocks(
    names: Sequence[str], rows: StripedFeatures, columns: StripedFeatures
) -> Iterator[tuple[int, dict[str, Float[Array, "some columns"]]]]:
    """Gives distances of all rows from all columns, telling how many rows are done.

    Args:
      names: of NAMES.

    Returns:
      index of the first row, and the distances by name, of some rows after the others.
    """

    def computed():
        others = StripedFeatures(*map(jnp.asarray, columns))
        for start, stop in re_ranking.blocks(len(rows.whole), len(columns.whole)):
            some = StripedFeatures(*(jnp.asarray(part[start:stop]) for part in rows))
            yield start, _all_pairs(tuple(names), some, others)

    return log.told("distances", len(rows.whole), computed())


# XLA's own sums: those of runtime/compiler.py take a third longer for wide features.
@functools.partial(jax.jit, static_argnames="names")
def _all_pairs(names, rows, columns):
    found = {}
    if set(names) & {"global", "summed"}:
        found["global"] = euclidean_distances(rows.whole, columns.whole)
    if set(names) & {"local", "summed"}:
        found["local"] = path_distances(rows.stripes, columns.stripes)
    if "summed" in names:
        found["summed"] = found["global"] + found["local"]
    return {name: found[name] for name in names}


@functools.partial(jax.jit, static_argnames="name")
def of_pairs(
    name: str,
    images: StripedFeatures,
    i: Int[np.ndarray, "pairs"],
    j: Int[np.ndarray, "pairs"],
) -> Float[Array, "pairs"]:
    """Distances of image i[k] from image j[k]."""

    def path(first, second):
        return shortest_path(stripe_distances(first[None], second[None]))[0, 0]

    apart = 0
    if name != "local":
        apart += jnp.linalg.norm(images.whole[i] - images.whole[j], axis=1)
    if name != "global":
        apart += jax.vmap(path)(images.stripes[i], images.stripes[j])
    return apart
