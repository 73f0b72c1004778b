"""Inception score, precision and recall, kernel Inception distance."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddae_jax.errors import UserError
from ddae_jax.metrics.checks import checked_features


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean and standard deviation over the parts that a score is computed on."""

    mean: float
    standard_deviation: float


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of generated samples that are like real ones, and of real
    samples that are like generated ones."""

    precision: float
    recall: float


def inception_score(
    logits: Float[np.ndarray, "samples classes"], splits: int = 10
) -> Score:
    """exp of the mean KL divergence of p(y|x) from p(y) (Salimans et al. 2016).

    Args:
      logits: of the generated images; published scores leave the bias out
        (`Outputs.score_logits`).
      splits: consecutive parts that the score is computed on, each with its own p(y).

    Raises:
      UserError: fewer samples than twice the splits, or a value not finite.
    """
    if splits < 1:
        raise UserError(f"Inception score with {splits} splits: at least 1 is needed")
    logits = checked_features(logits, "logits", 2 * splits)
    edges = [len(logits) * i // splits for i in range(splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(edges):
        part = logits[start:stop].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        log_p = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        # A class that no sample has any probability of adds 0 * log 0 = 0.
        log_marginal = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (log_p - log_marginal)).sum(axis=1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))


@jax.jit
def _square_distances(a, b):
    products = jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1) - 2 * products, 0)


def _blocks(features, block_size):
    for start in range(0, len(features), block_size):
        yield features[start : start + block_size]


def _square_radii(features, neighbours, block_size):
    """Squared distance of each sample to its k-th neighbour within the set."""
    radii = []
    for rows in _blocks(features, block_size):
        nearest = np.empty((len(rows), 0), np.float32)
        for columns in _blocks(features, block_size):
            distances = np.asarray(_square_distances(rows, columns))
            nearest = np.concatenate([nearest, distances], axis=1)
            if nearest.shape[1] > neighbours + 1:
                # The sample itself is its own neighbour number zero.
                nearest = np.partition(nearest, neighbours, axis=1)
                nearest = nearest[:, : neighbours + 1]
        radii.append(nearest.max(axis=1))
    return np.concatenate(radii)


def _share_covered(queries, centres, square_radii, block_size):
    """Share of `queries` inside the ball of at least one centre."""
    covered = 0
    for rows in _blocks(queries, block_size):
        inside = np.zeros(len(rows), bool)
        for start in range(0, len(centres), block_size):
            part = slice(start, start + block_size)
            distances = np.asarray(_square_distances(rows, centres[part]))
            inside |= (distances <= square_radii[part]).any(axis=1)
        covered += int(inside.sum())
    return covered / len(queries)


def precision_recall(
    reference: Float[np.ndarray, "real real_width"],
    generated: Float[np.ndarray, "fake fake_width"],
    neighbours: int = 3,
    block_size: int = 2048,
) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2).

    A set's manifold is the union of balls around its samples that reach to the k-th
    neighbour. Distances are taken block by block on the accelerator, so that memory
    does not grow with the square of the number of samples.

    Args:
      reference: features of real images.
      generated: features of generated images.
      neighbours: k.
      block_size: rows and columns of a block.

    Raises:
      UserError: not more than `neighbours` samples, widths that differ, or a feature
        that is not finite.
    """
    if neighbours < 1 or block_size < 1:
        raise UserError(
            f"precision and recall: neighbours {neighbours} and block_size "
            f"{block_size} must be 1 or more"
        )
    reference = checked_features(reference, "reference", neighbours + 1)
    width = reference.shape[1]
    generated = checked_features(generated, "generated", neighbours + 1, width)
    # Distances do not change, but less of the float32 products cancels.
    centre = reference.mean(axis=0, dtype=np.float64)
    reference = (reference - centre).astype(np.float32)
    generated = (generated - centre).astype(np.float32)
    real_radii = _square_radii(reference, neighbours, block_size)
    fake_radii = _square_radii(generated, neighbours, block_size)
    return PrecisionRecall(
        precision=_share_covered(generated, reference, real_radii, block_size),
        recall=_share_covered(reference, generated, fake_radii, block_size),
    )


def kernel_distance(
    reference: Float[np.ndarray, "real real_width"],
    generated: Float[np.ndarray, "fake fake_width"],
    subset_size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
) -> Score:
    """KID: unbiased squared MMD with kernel (x.y / width + 1)^3 (Binkowski 2018).

    Args:
      reference: features of real images.
      generated: features of generated images.
      subset_size: samples drawn from either set, without replacement, for a subset.
      subsets: number of subsets that are averaged.
      seed: of the drawing.

    Raises:
      UserError: fewer samples than `subset_size`, widths that differ, or a feature
        that is not finite.
    """
    if subset_size < 2 or subsets < 1:
        raise UserError(
            f"KID: {subsets} subsets of {subset_size} samples; at least 1 of 2 needed"
        )
    reference = checked_features(reference, "reference", subset_size)
    width = reference.shape[1]
    generated = checked_features(generated, "generated", subset_size, width)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x, y = (
            features[
                generator.choice(len(features), subset_size, replace=False)
            ].astype(np.float64)
            for features in (reference, generated)
        )
        within = sum(_kernel(a, a).sum() - _kernel_diagonal(a).sum() for a in (x, y))
        pairs = subset_size * (subset_size - 1)
        values.append(within / pairs - 2 * _kernel(x, y).mean())
    return Score(float(np.mean(values)), float(np.std(values)))


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_diagonal(x):
    return (np.sum(x * x, axis=1) / x.shape[1] + 1) ** 3
