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
"""NearestImages, neighbours of the query expansion, weight of the distance (lambda)."""

_BLOCK_BYTES = 2**26
_PAIRS = 2**12


@dataclasses.dataclass(frozen=True)
class Distances:
    """Distances of N images from each other, computed where they are asked for.

    Attributes:
      rows: (start, stop) -> distances of these images from all, [stop - start, N].
      pairs: (i, j) -> distances of image i[k] from image j[k], [k].
      count: N.
    """

    rows: Callable[[int, int], Float[np.ndarray | Array, "some count"]]
    pairs: Callable[
        [Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]],
        Float[np.ndarray | Array, "pairs"],
    ]
    count: int

    def blocks(self, stop: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of blocks of the first `stop` rows: 64 MiB of float32 each."""
        size = max(1, _BLOCK_BYTES // (4 * self.count))
        for start in range(0, stop, size):
            yield start, min(start + size, stop)


@dataclasses.dataclass(frozen=True)
class NearestImages:
    """What is kept of the distances.

    Attributes:
      indices: of each image the nearest k1 + 1 images, itself among them, the nearest
        first; of equals, the one that comes first.
      largest: distance of the image farthest from it.
    """

    indices: Int[np.ndarray, "images neighbours"]
    largest: Float[np.ndarray, "images"]


def of_features(features: Float[np.ndarray | Array, "images width"]) -> Distances:
    """Euclidean distances."""
    features = jnp.asarray(features)
    rows = jax.jit(euclidean_distances)

    @jax.jit
    def apart(i, j):
        return jnp.linalg.norm(features[i] - features[j], axis=1)

    return Distances(
        lambda start, stop: rows(features[start:stop], features),
        apart,
        len(features),
    )


@functools.partial(jax.jit, static_argnames="count")
def _neighbours(distances, count):
    # Of equals, top_k takes the first.
    return jax.lax.top_k(-distances, count)[1], distances.max(axis=1)


def neighbours_of_block(
    distances: Float[np.ndarray | Array, "some images"], k1: int = K1
) -> NearestImages:
    """Those of some rows of the distances."""
    count = min(k1 + 1, distances.shape[1])
    return NearestImages(*map(np.asarray, _neighbours(distances, count)))


def joined(blocks: Sequence[NearestImages]) -> NearestImages:
    """The neighbours of all images, of blocks in their order."""
    return NearestImages(
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.largest for block in blocks]),
    )


def encodings(
    neighbours: NearestImages, distances: Distances, k2: int = K2
) -> scipy.sparse.csr_array:
    """Each image as weights of the images that it shares neighbours with, [N, N].

    The k-reciprocal neighbours R(i, k1) of image i have it among their own k1. Those of
    a member j in half as large a neighbourhood, R(j, k1 / 2), join them where more than
    two thirds are in R(i, k1) already (eq. 3). A member's weight is exp(-d) (eq. 8);
    the encodings of the k2 nearest images are averaged (eq. 11).

    Returns:
      float64; rows sum to 1, with at most k2 (k1 + 1) (k1 / 2 + 2) entries each, and
      far fewer in practice.

    Raises:
      UserError: k2 is not among the neighbours that are known.
    """
    known = neighbours.indices.shape[1]
    if not 1 <= k2 <= known:
        raise UserError(f"k2 {k2}: from 1 to k1 + 1, which is {known}")
    # Published code rounds half of an odd k1 to the even side.
    half = reciprocal(neighbours.indices[:, : round((known - 1) / 2) + 1])
    members = reciprocal(neighbours.indices)
    shared = members * (members @ half.T)
    shared = scipy.sparse.coo_array(shared)
    joining = 3 * shared.data > 2 * np.diff(half.indptr)[shared.col]
    joining = _ones(shared.row[joining], shared.col[joining], members.shape)
    members = scipy.sparse.coo_array(members + joining @ half)
    i, j = members.row, members.col
    weights = np.exp(-squared(_of_pairs(distances, i, j), neighbours.largest[i]))
    weights /= np.bincount(i, weights, distances.count)[i]
    encoded = scipy.sparse.csr_array((weights, (i, j)), shape=members.shape)
    if k2 == 1:
        return encoded
    nearest = neighbours.indices[:, :k2]
    mean = _ones(np.repeat(np.arange(len(nearest)), k2), nearest.ravel(), members.shape)
    return mean @ encoded / k2


def reciprocal(
    indices: Int[np.ndarray, "images k"],
) -> scipy.sparse.csr_array:
    """Ones at (i, j) where each is among the k nearest images of the other."""
    count, k = indices.shape
    rows = np.repeat(np.arange(count), k)
    near = _ones(rows, indices.ravel(), (count, count))
    return scipy.sparse.csr_array(near * near.T)


def _ones(rows, columns, shape):
    values = np.ones(len(rows), np.int32)
    return scipy.sparse.csr_array((values, (rows, columns)), shape=shape)


def _of_pairs(distances: Distances, i, j) -> Float[np.ndarray, "pairs"]:
    """In parts of one size, so that one program serves them all."""
    parts = []
    for start in range(0, len(i), _PAIRS):
        some = slice(start, start + _PAIRS)
        rest = max(start + _PAIRS - len(i), 0)
        padded = (np.pad(indices[some], (0, rest)) for indices in (i, j))
        found = np.asarray(distances.pairs(*padded))
        parts.append(found[: _PAIRS - rest])
    return np.concatenate(parts)


def squared(
    distances: Float[np.ndarray, "*shape"], largest: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape"]:
    """Squares as shares of that of the largest, in [0, 1], in float64."""
    largest = np.where(largest > 0, largest, 1).astype(np.float64)
    return np.square(distances / largest)


def jaccard(
    queries: scipy.sparse.csr_array, gallery: scipy.sparse.csc_array
) -> Float[np.ndarray, "queries gallery"]:
    """Jaccard distances in [0, 1], 1 less the share of minima in maxima (eq. 10).

    Args:
      queries: encodings of some queries. Encodings sum to 1: so the sum of two ones'
        maxima is 2 less that of their minima.
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
    return 1 - minima / (2 - minima)


def re_ranked(
    distances: Distances,
    neighbours: NearestImages,
    queries: int,
    *,
    k2: int = K2,
    weight: float = WEIGHT,
) -> Iterator[Float[np.ndarray, "some gallery"]]:
    """Final distances of the queries from the gallery, block by block (eq. 12).

    (1 - weight) Jaccard distance + weight d.

    Args:
      neighbours: of all images, queries and gallery.
      queries: how many there are; the images after them are the gallery.

    Raises:
      UserError: as `encodings`.
    """
    encoded = encodings(neighbours, distances, k2)
    gallery = scipy.sparse.csc_array(encoded[queries:])
    for start, stop in distances.blocks(queries):
        plain = np.asarray(distances.rows(start, stop))[:, queries:]
        plain = squared(plain, neighbours.largest[start:stop, None])
        yield (1 - weight) * jaccard(encoded[start:stop], gallery) + weight * plain


def re_rank(
    distances: Distances,
    queries: int,
    *,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
) -> Iterator[Float[np.ndarray, "some gallery"]]:
    """`re_ranked`, from the distances alone: all are computed once, the queries' twice.

    Memory: that of `distances`, blocks of 64 MiB of float32 and their float64, and the
    encodings. Market1501's 3,368 x 15,913 images with 2,048 features stay under 4 GiB
    (benchmarks/README.md).
    """
    blocks = distances.blocks(distances.count)
    found = [neighbours_of_block(distances.rows(*block), k1) for block in blocks]
    yield from re_ranked(distances, joined(found), queries, k2=k2, weight=weight)
