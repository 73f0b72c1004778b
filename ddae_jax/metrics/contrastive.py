"""Alignment and uniformity of features on the sphere (Wang & Isola 2020)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddae_jax.errors import UserError
from ddae_jax.metrics.checks import checked_features


def normalise(features: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Scales every row to length 1; rows shorter than 1e-6 stay short.

    The gradient is finite, at zero too.
    """
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def alignment(
    x: Float[Array, "batch width"], y: Float[Array, "batch width"], alpha: float = 2
) -> Float[Array, ""]:
    """Mean of |x - y|^alpha over pairs of views, for rows of length 1 (eq. 1)."""
    square = jnp.sum(jnp.square(x - y), axis=-1)
    return jnp.mean(square ** (alpha / 2))


def uniformity(x: Float[Array, "batch width"], t: float = 2) -> Float[Array, ""]:
    """Log of the mean of exp(-t |xi - xj|^2) over pairs i < j, for rows of length 1
    (eq. 2)."""
    squares = jnp.sum(jnp.square(x), axis=-1)
    products = jnp.dot(x, x.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.maximum(squares[:, None] + squares - 2 * products, 0)
    above = jnp.triu(jnp.ones(distances.shape, bool), k=1)
    pairs = len(x) * (len(x) - 1) / 2
    total = jax.nn.logsumexp(jnp.where(above, -t * distances, -jnp.inf))
    return total - np.log(pairs)


@dataclasses.dataclass(frozen=True)
class AlignmentUniformity:
    """Means over batches; `batch_size` belongs to the uniformity as its unit."""

    alignment: float
    uniformity: float
    batch_size: int


@jax.jit
def _of_batch(x, y):
    x, y = normalise(x), normalise(y)
    return alignment(x, y), (uniformity(x) + uniformity(y)) / 2


def alignment_and_uniformity(
    x: Float[np.ndarray | Array, "samples width"],
    y: Float[np.ndarray | Array, "other_samples other_width"],
    *,
    batch_size: int,
) -> AlignmentUniformity:
    """Means over batches of both metrics, of features that are not yet normalised.

    Uniformity is the log of a mean over the pairs of a batch, so its value depends on
    the batch size; DDAE's values are of batches of 128. Samples that do not fill a
    last batch are averaged in with their share of the samples.

    Args:
      x: features of the samples under one noise draw.
      y: features of the same samples under another.
      batch_size: samples of which uniformity takes all pairs.

    Raises:
      UserError: the shapes differ, fewer than two samples, a feature not finite, or a
        batch size below 2.
    """
    if batch_size < 2:
        raise UserError(f"batch size {batch_size}: uniformity needs pairs, 2 or more")
    x = checked_features(x, "first view")
    y = checked_features(y, "second view", width=x.shape[1])
    if len(x) != len(y):
        raise UserError(f"{len(x)} samples in the first view, {len(y)} in the second")
    starts = list(range(0, len(x), batch_size))
    if len(x) - starts[-1] == 1 and len(starts) > 1:
        starts.pop()  # one sample has no pairs: it joins the batch before it
    stops = [*starts[1:], len(x)]
    values = [
        _of_batch(x[start:stop], y[start:stop])
        for start, stop in zip(starts, stops, strict=True)
    ]
    means = np.average(
        np.asarray(values, np.float64),
        axis=0,
        weights=np.subtract(stops, starts),
    )
    return AlignmentUniformity(float(means[0]), float(means[1]), batch_size)


class Running:
    """alignment_and_uniformity of features that come bit by bit: memory stays bounded.

    The result is that of all features at once.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._rest: tuple[np.ndarray, np.ndarray] | None = None
        self._found: list[tuple[int, AlignmentUniformity]] = []

    def add(
        self,
        x: Float[np.ndarray, "samples width"],
        y: Float[np.ndarray, "samples width"],
    ) -> None:
        """Takes some more samples, of both views."""
        if self._rest is not None:
            x, y = (
                np.concatenate(pair) for pair in zip(self._rest, (x, y), strict=True)
            )
        # At least two rows stay: a single last one would have no pair.
        full = max(len(x) - 2, 0) // self._batch_size * self._batch_size
        if full:
            self._measure(x[:full], y[:full])
        self._rest = x[full:], y[full:]

    def result(self) -> AlignmentUniformity:
        """Of all samples so far; called once, at the end.

        Raises:
          UserError: as `alignment_and_uniformity`.
        """
        if self._rest is None:
            raise UserError("no samples")
        self._measure(*self._rest)
        weights = [count for count, _ in self._found]
        means = (
            float(
                np.average([getattr(f, name) for _, f in self._found], weights=weights)
            )
            for name in ("alignment", "uniformity")
        )
        return AlignmentUniformity(*means, self._batch_size)

    def _measure(self, x, y):
        found = alignment_and_uniformity(x, y, batch_size=self._batch_size)
        self._found.append((len(x), found))
