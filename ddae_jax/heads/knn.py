"""The k-nearest-neighbour classifier, block by block on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError

METRICS = ("cosine", "euclidean")


def neighbours(
    train: Float[np.ndarray, "count features"],
    queries: Float[np.ndarray, "queries features"],
    k: int,
    metric: str,
    train_block: int = 16384,
    query_block: int = 1024,
) -> tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """Finds the `k` nearest training examples of each query.

    The device holds one block of either set and the nearest found so far: memory does
    not grow with the training set, which is read once.

    Args:
      train: may be memory-mapped.
      metric: "cosine": of the features as they are, neither centred nor scaled;
        "euclidean".

    Returns:
      (similarities, indices), nearest first; the similarity is the cosine, or minus the
      squared distance. Of equally near examples the earlier comes first.

    Raises:
      UserError: there are fewer than `k` training examples.
    """
    if k > len(train):
        raise UserError(f"{k} neighbours of {len(train)} training images")
    # Distances stay the same, and keep more digits, without the common mean.
    centre = train.mean(axis=0, dtype=np.float64) if metric == "euclidean" else 0.0
    train_block = min(train_block, len(train))
    query_block = min(query_block, len(queries))

    def placed(features, start, size):
        block = (features[start : start + size] - centre).astype(np.float32)
        return jnp.asarray(np.pad(block, ((0, size - len(block)), (0, 0))))

    starts = range(0, len(queries), query_block)
    query_blocks = [placed(queries, start, query_block) for start in starts]
    nearest = [
        (jnp.full((query_block, k), -jnp.inf), jnp.zeros((query_block, k), jnp.int32))
        for _ in starts
    ]
    for start in range(0, len(train), train_block):
        block = placed(train, start, train_block)
        for i, query in enumerate(query_blocks):
            nearest[i] = _merge(*nearest[i], query, block, start, len(train), metric)
    similarities, indices = (
        np.concatenate([np.asarray(part) for part in parts])[: len(queries)]
        for parts in zip(*nearest, strict=True)
    )
    return similarities, indices


@functools.partial(jax.jit, static_argnames="metric", donate_argnums=(0, 1))
def _merge(
    similarities: Float[Array, "queries k"],
    indices: Int[Array, "queries k"],
    queries: Float[Array, "queries features"],
    block: Float[Array, "block features"],
    start: Int[Array, ""],
    count: Int[Array, ""],
    metric: str,
):
    """The nearest of those found so far and of a block, whose first index is `start`.

    Of indices from `count` on nothing is near: they fill up the last block.
    """
    found = _similarity(queries, block, metric)
    numbers = start + jnp.arange(len(block), dtype=jnp.int32)
    found = jnp.where(numbers < count, found, -jnp.inf)
    numbers = jnp.broadcast_to(numbers, found.shape)
    k = similarities.shape[1]
    # Equal values keep their order: the earlier example stays in front.
    best, chosen = jax.lax.top_k(jnp.concatenate([similarities, found], axis=1), k)
    numbers = jnp.concatenate([indices, numbers], axis=1)
    return best, jnp.take_along_axis(numbers, chosen, axis=1)


def _similarity(queries, block, metric):
    if metric == "cosine":
        queries, block = _unit(queries), _unit(block)
    # Neighbours that nearly tie need all digits, also on TPU and GPU.
    products = jnp.matmul(queries, block.T, precision=jax.lax.Precision.HIGHEST)
    if metric == "cosine":
        return products
    lengths = jnp.sum(queries**2, axis=1)[:, None] + jnp.sum(block**2, axis=1)
    return jnp.minimum(2 * products - lengths, 0)


def _unit(features):
    norms = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.maximum(norms, 1e-12)


def vote(
    similarities: Float[np.ndarray, "queries k"],
    labels: Int[np.ndarray, "queries k"],
    class_count: int,
    temperature: float = 0.0,
) -> Int[np.ndarray, "queries"]:
    """Returns the class with most votes, the smallest of equals.

    Args:
      similarities: as `neighbours` gives them.
      labels: of the neighbours.
      temperature: a neighbour's vote is exp(similarity / temperature) (Wu et al. 2018,
        arXiv 1805.01978, section 3.4; 0.07 there); 0: one each.
    """
    weights = np.ones(similarities.shape)
    if temperature:
        # A common factor changes nothing, and keeps exp in range.
        nearer = similarities - similarities[:, :1]
        weights = np.exp(nearer.astype(np.float64) / temperature)
    votes = np.zeros((len(labels), class_count))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels), weights)
    return votes.argmax(axis=1)
