"""k-reciprocal re-ranking (Zhong et al. 2017, arXiv 1701.08398), exact, in blocks.

Two images are near if they have the same neighbours. Queries and gallery stand in one
list of N images, the queries first. No matrix of N x N is made: a block of distances
gives the nearest images of its rows, and all that follows is sparse. The published
code's choices are kept where the paper leaves them open: distances are squared and
divided by the largest of their row, and encodings sum to 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.metrics.euclidean import euclidean_distances

K1, K2, WEIGHT = 20, 6, 0.3
"""Neighbours, neighbours of the query expansion, weight of the distance (lambda)."""

_BLOCK_BYTES = 2**26
_PAIRS = 2**12

Pairs = Callable[
    [Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]],
    Float[np.ndarray | Array, "pairs"],
]
"""(i, j) -> distances of image i[k] from image j[k]."""


@dataclasses.dataclass(frozen=True)
class Distances:
    """Distances of N images from each other, computed where they are asked for.

    Attributes:
      rows: (start, stop) -> distances of these images from all, [stop - start, N].
      pairs: those of single pairs, as `rows` would give them.
      count: N.
    """

    rows: Callable[[int, int], Float[np.ndarray | Array, "some count"]]
    pairs: Pairs
    count: int


@dataclasses.dataclass(frozen=True)
class NearestImages:
    """What is kept of the distances of some images from all.

    Attributes:
      indices: of each image the nearest k1 + 1 images, itself among them, the nearest
        first; of equals, the one that comes first.
      largest: distance of the image farthest from it.
    """

    indices: Int[np.ndarray, "images neighbours"]
    largest: Float[np.ndarray, "images"]


def blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of rows: 64 MiB of float32 each."""
    size = max(1, _BLOCK_BYTES // (4 * columns))
    for start in range(0, rows, size):
        yield start, min(start + size, rows)


def of_features(features: Float[np.ndarray | Array, "images width"]) -> Distances:
    """Euclidean distances."""
    features = jnp.asarray(features)
    return Distances(
        lambda start, stop: _rows(features[start:stop], features),
        lambda i, j: _apart(features, i, j),
        len(features),
    )


_rows = jax.jit(euclidean_distances)


@jax.jit
def _apart(features, i, j):
    return jnp.linalg.norm(features[i] - features[j], axis=1)


@functools.partial(jax.jit, static_argnames="count")
def _nearest(distances, count):
    # Of equals, top_k takes the first.
    return jax.lax.top_k(-distances, count)[1], distances.max(axis=1)


def nearest_of_block(
    distances: Float[np.ndarray | Array, "some images"], k1: int = K1
) -> NearestImages:
    """Those of some rows of the distances."""
    count = min(k1 + 1, distances.shape[1])
    return NearestImages(*map(np.asarray, _nearest(distances, count)))


def joined(parts: Sequence[NearestImages]) -> NearestImages:
    """Those of all images, from blocks in their order."""
    return NearestImages(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.largest for part in parts]),
    )


def encodings(
    nearest: NearestImages, pairs: Pairs, k2: int = K2
) -> scipy.sparse.csr_array:
    """Each image as weights of the images that it shares neighbours with, [N, N].

    The k-reciprocal neighbours R(i, k1) of image i have it among their own k1. Those of
    a member j in half as large a neighbourhood, R(j, k1 / 2), join them where more than
    two thirds are in R(i, k1) already (eq. 3). A member's weight is exp(-d) (eq. 8);
    the encodings of the k2 nearest images are averaged (eq. 11).

    Returns:
      float64, with at most k2 (k1 + 1) (k1 / 2 + 2) entries a row, far fewer in
      practice. Rows sum to 1, save where a neighbour is no neighbour of itself.

    Raises:
      UserError: k2 is not among the neighbours that are known.
    """
    count, known = nearest.indices.shape
    if not 1 <= k2 <= known:
        raise UserError(f"k2 {k2}: from 1 to k1 + 1, which is {known}")
    # Published code rounds half of an odd k1 to the even side.
    half = reciprocal(nearest.indices[:, : round((known - 1) / 2) + 1])
    members = reciprocal(nearest.indices)
    shared = scipy.sparse.coo_array(members * (members @ half.T))
    joining = 3 * shared.data > 2 * np.diff(half.indptr)[shared.col]
    joining = _ones(shared.row[joining], shared.col[joining], count)
    members = scipy.sparse.coo_array(members + joining @ half)
    i, j = members.row, members.col
    weights = np.exp(-squared(_in_parts(pairs, i, j), nearest.largest[i]))
    weights /= np.bincount(i, weights, count)[i]
    encoded = scipy.sparse.csr_array((weights, (i, j)), shape=members.shape)
    if k2 == 1:
        return encoded
    averaged = nearest.indices[:, :k2].ravel()
    return _ones(np.repeat(np.arange(count), k2), averaged, count) @ encoded / k2


def reciprocal(
    indices: Int[np.ndarray, "images k"],
) -> scipy.sparse.csr_array:
    """Ones at (i, j) where each is among the k nearest images of the other."""
    count, k = indices.shape
    near = _ones(np.repeat(np.arange(count), k), indices.ravel(), count)
    return scipy.sparse.csr_array(near * near.T)


def _ones(rows, columns, count):
    values = np.ones(len(rows), np.int32)
    return scipy.sparse.csr_array((values, (rows, columns)), shape=(count, count))


def _in_parts(pairs: Pairs, i, j) -> Float[np.ndarray, "pairs"]:
    """In parts of one size, so that one program serves them all."""
    found = []
    for start in range(0, len(i), _PAIRS):
        some = slice(start, start + _PAIRS)
        rest = max(start + _PAIRS - len(i), 0)
        padded = (np.pad(indices[some], (0, rest)) for indices in (i, j))
        found.append(np.asarray(pairs(*padded))[: _PAIRS - rest])
    return np.concatenate(found)


def squared(
    distances: Float[np.ndarray, "*shape"], largest: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape"]:
    """Squares as shares of that of the largest, in [0, 1], in float64."""
    largest = np.where(largest > 0, largest, 1).astype(np.float64)
    return np.square(distances / largest)


def jaccard(
    queries: scipy.sparse.csr_array, gallery: scipy.sparse.csc_array
) -> Float[np.ndarray, "queries gallery"]:
    """Jaccard distances in [0, 1]: 1 less the share of minima in maxima (eq. 10).

    Args:
      queries: encodings of some queries.
      gallery: encodings of the gallery, by column: who shares a neighbour.
    """
    minima = np.empty((queries.shape[0], gallery.shape[0]))
    for row in range(len(minima)):
        of_row = slice(*queries.indptr[row : row + 2])
        columns, weights = queries.indices[of_row], queries.data[of_row]
        starts = gallery.indptr[columns]
        lengths = gallery.indptr[columns + 1] - starts
        # Places of all entries of these columns, one column after the other.
        shift = starts - np.cumsum(lengths) + lengths
        places = np.repeat(shift, lengths) + np.arange(lengths.sum())
        smaller = np.minimum(np.repeat(weights, lengths), gallery.data[places])
        sharing = gallery.indices[places]
        minima[row] = np.bincount(sharing, smaller, minlength=gallery.shape[0])
    maxima = queries.sum(axis=1)[:, None] + gallery.sum(axis=1) - minima
    # Images without any k-reciprocal neighbour are not near each other.
    return 1 - minima / np.where(maxima > 0, maxima, 1)


def re_ranked_block(
    distances: Float[np.ndarray, "some gallery"],
    largest: Float[np.ndarray, "some"],
    queries: scipy.sparse.csr_array,
    gallery: scipy.sparse.csc_array,
    weight: float = WEIGHT,
) -> Float[np.ndarray, "some gallery"]:
    """Final distances: (1 - weight) Jaccard distance + weight d (eq. 12), float64.

    Args:
      distances: of some queries from the gallery.
      largest: of these queries' `NearestImages`.
      queries, gallery: as for `jaccard`.
    """
    plain = squared(distances, largest[:, None])
    return (1 - weight) * jaccard(queries, gallery) + weight * plain


def re_rank(
    distances: Distances,
    queries: int,
    *,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
) -> Iterator[Float[np.ndarray, "some gallery"]]:
    """Final distances of the queries from the gallery, some queries after the others.

    Memory: that of `distances`, blocks of 64 MiB of float32 and their float64, and the
    encodings. Market1501's 3,368 x 15,913 images with 2,048 features stay under 4 GiB
    (benchmarks/README.md).

    Args:
      distances: computed once, and those of the queries once more.
      queries: how many there are; the images after them are the gallery.

    Raises:
      UserError: as `encodings`.
    """
    parts = [
        nearest_of_block(distances.rows(*block), k1)
        for block in blocks(distances.count, distances.count)
    ]
    nearest = joined(parts)
    encoded = encodings(nearest, distances.pairs, k2)
    gallery = scipy.sparse.csc_array(encoded[queries:])
    for start, stop in blocks(queries, distances.count):
        yield re_ranked_block(
            np.asarray(distances.rows(start, stop))[:, queries:],
            nearest.largest[start:stop],
            encoded[start:stop],
            gallery,
            weight,
        )
