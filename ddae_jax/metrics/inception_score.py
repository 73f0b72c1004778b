"""The Inception score of samples as they arrive, in memory that does not grow."""

import dataclasses

import numpy as np
from jaxtyping import Float

from ddae_jax.errors import UserError
from ddae_jax.metrics.checks import checked_features
from ddae_jax.metrics.scores import Score


@dataclasses.dataclass(frozen=True)
class ScoreSums:
    """What `scores.inception_score` of all samples needs, part by part.

    The mean KL divergence of p(y|x) from p(y) is the mean of sum_y p(y|x) log p(y|x),
    minus sum_y p(y) log p(y): sums over samples are enough.

    Attributes:
      total: number of samples that will arrive; it sets the parts.
      count: of those that have arrived.
      marginals: sum of p(y|x) of each part, float64.
      negentropies: sum of sum_y p(y|x) log p(y|x) of each part, float64.
    """

    total: int
    count: int
    marginals: Float[np.ndarray, "splits classes"]
    negentropies: Float[np.ndarray, "splits"]

    def add(self, logits: Float[np.ndarray, "samples classes"]) -> "ScoreSums":
        """Returns the sums with the next samples added.

        Raises:
          UserError: more samples than `total`, or a value not finite.
        """
        splits, classes = self.marginals.shape
        logits = checked_features(logits, "logits", 1, classes).astype(np.float64)
        count = self.count + len(logits)
        if count > self.total:
            raise UserError(f"{count} samples for a score of {self.total}")
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        # The parts of inception_score begin at total * i // splits.
        edges = self.total * np.arange(1, splits + 1) // splits
        part = np.searchsorted(edges, np.arange(self.count, count), side="right")
        member = (part == np.arange(splits)[:, None]).astype(np.float64)
        return ScoreSums(
            self.total,
            count,
            self.marginals + member @ p,
            self.negentropies + member @ (p * log_p).sum(axis=1),
        )

    def score(self) -> Score:
        """Returns the mean and the standard deviation over the parts.

        Raises:
          UserError: not all samples have arrived.
        """
        if self.count != self.total:
            raise UserError(f"{self.count} of {self.total} samples have a score")
        splits = len(self.marginals)
        edges = self.total * np.arange(splits + 1) // splits
        sizes = np.diff(edges)
        marginal = self.marginals / sizes[:, None]
        # A class that no sample has any probability of adds 0 * log 0 = 0.
        log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
        cross = (marginal * log_marginal).sum(axis=1)
        scores = np.exp(self.negentropies / sizes - cross)
        return Score(float(scores.mean()), float(scores.std()))


def score_sums(total: int, splits: int, classes: int) -> ScoreSums:
    """Returns the sums over no samples yet.

    Raises:
      UserError: fewer samples than twice the parts.
    """
    if splits < 1 or total < 2 * splits:
        raise UserError(
            f"Inception score of {total} samples in {splits} parts: at least 1 part "
            "and 2 samples in each are needed"
        )
    return ScoreSums(total, 0, np.zeros((splits, classes)), np.zeros(splits))
