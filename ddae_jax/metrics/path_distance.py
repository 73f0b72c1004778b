"""AlignedReID's distance of two images: the shortest path through their stripes.

Zhang et al. 2017 (arXiv 1711.08184), section 3.1. A person stands higher in one image
than in the other: a path from the top stripes to the bottom ones aligns them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from ddae_jax.metrics.euclidean import euclidean_distances

_BLOCK = 2**20
"""Stripe distances at a time: 4 MiB of float32, which caches hold."""


def _bounded(distances: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
    return jnp.tanh(distances / 2)


def stripe_distances(
    first: Float[Array, "first rows features"],
    second: Float[Array, "second columns features"],
) -> Float[Array, "first second rows columns"]:
    """Distances in [0, 1] of all stripes of all pairs of images (eq. 1).

    d = (e^x - 1) / (e^x + 1) of x = |f - g|, which is tanh(x / 2); its gradient is
    finite, and 0 where f = g.
    """
    flat = euclidean_distances(
        rearrange(first, "n h c -> (n h) c"), rearrange(second, "m w c -> (m w) c")
    )
    return rearrange(
        _bounded(flat), "(n h) (m w) -> n m h w", n=len(first), m=len(second)
    )


def shortest_path(
    distances: Float[Array, "*pairs rows columns"],
) -> Float[Array, "*pairs"]:
    """Sums of the distances along the shortest path from (0, 0) to the last stripes.

    A path goes one stripe down or one to the right at a time: S_ij = d_ij +
    min(S_i-1,j, S_i,j-1) (eq. 2). The stripes of an anti-diagonal do not depend on each
    other, those of all pairs neither.
    """
    # The pairs come last, where they fill the registers.
    cells = jnp.moveaxis(distances, (-2, -1), (0, 1))
    rows, columns = cells.shape[:2]
    sums = {(0, 0): cells[0, 0]}
    for diagonal in range(1, rows + columns - 1):
        previous, sums = sums, {}
        for i in range(max(0, diagonal - columns + 1), min(rows, diagonal + 1)):
            j = diagonal - i
            above, left = previous.get((i - 1, j)), previous.get((i, j - 1))
            if above is None or left is None:
                best = left if above is None else above
            else:
                best = jnp.minimum(above, left)
            sums[i, j] = cells[i, j] + best
    return sums[rows - 1, columns - 1]


def path_distances(
    first: Float[Array, "first rows features"],
    second: Float[Array, "second columns features"],
) -> Float[Array, "first second"]:
    """Distances of all pairs of images, in [0, rows + columns - 1].

    Blocks of first images are worked through one after the other: the memory is that of
    the result and of the stripe distances of one image of `first`, or 4 MiB. Where a
    gradient is taken, all stripe distances are kept.
    """
    rows, columns = first.shape[1], second.shape[1]
    block = max(1, _BLOCK // max(1, len(second) * rows * columns))
    # The product gives the stripes of all images side by side, as the path reads them.
    turned = rearrange(second, "m w c -> (w m) c")

    def of_one(image):
        flat = _bounded(euclidean_distances(image, turned))
        return shortest_path(rearrange(flat, "h (w m) -> m h w", w=columns))

    return jax.lax.map(of_one, first, batch_size=block)


def traced_path(distances: Float[np.ndarray, "rows columns"]) -> list[tuple[int, int]]:
    """The stripes (i, j) along the shortest path of one pair, from first to last.

    Where two are equally short, the last step goes down rather than to the right.
    """
    sums = np.cumsum(distances, axis=1, dtype=np.float64)
    for i in range(1, len(sums)):
        sums[i, 0] = sums[i - 1, 0] + distances[i, 0]
        for j in range(1, sums.shape[1]):
            sums[i, j] = distances[i, j] + min(sums[i - 1, j], sums[i, j - 1])
    i, j = sums.shape[0] - 1, sums.shape[1] - 1
    path = [(i, j)]
    while i or j:
        if j == 0 or (i and sums[i - 1, j] <= sums[i, j - 1]):
            i -= 1
        else:
            j -= 1
        path.append((i, j))
    return path[::-1]
