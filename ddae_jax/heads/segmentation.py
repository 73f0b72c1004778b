"""Linear segmentation on frozen features: one linear layer for every position.

The scores of the positions are enlarged bilinearly to the pixels of the mask, as is
usual for linear probes of dense features (Oquab et al. 2023, DINOv2, section 7.4).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from ddae_jax.data.masks import IGNORE
from ddae_jax.heads import linear
from ddae_jax.runtime import parallel

Grid = Float[Array, "batch rows columns channels"]
Heads = dict[str, dict[str, Array]]
"""Name of the features -> {"kernel", "bias"} of a linear layer."""
Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name of the features -> mean and standard deviation of each channel."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Means and variances of features that come batch by batch.

    Batches combine without cancellation (Chan, Golub & LeVeque 1983).

    Attributes:
      count: images seen.
      parts: name of the features -> mean and variance of each channel, float64.
    """

    count: int = 0
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )

    def add(self, features: dict[str, Grid], valid: Bool[Array, "batch"]) -> "Moments":
        """Returns the moments with those of the valid images of one more batch."""
        added = int(np.sum(parallel.on_host(valid)))
        share = added / (self.count + added)
        parts = {}
        found = parallel.on_host(_batch_moments(features, valid))
        for name, (mean, variance) in found.items():
            mean, variance = np.float64(mean), np.float64(variance)
            old_mean, old_variance = self.parts.get(name, (mean, variance))
            gap = mean - old_mean
            between = share * (1 - share) * gap**2
            parts[name] = (
                old_mean + share * gap,
                (1 - share) * old_variance + share * variance + between,
            )
        return Moments(self.count + added, parts)

    def statistics(self) -> Statistics:
        """Means and standard deviations; that of a constant channel is 1."""
        found = {}
        for name, (mean, variance) in self.parts.items():
            scale = np.sqrt(variance)
            # A constant channel can have a spread of rounding errors.
            scale[scale <= 1e-6 * np.abs(mean)] = 1.0
            scale[scale == 0] = 1.0
            found[name] = (mean.astype(np.float32), scale.astype(np.float32))
        return found


@jax.jit
def _batch_moments(features, valid):
    def moments(grid):
        weights = valid[:, None, None, None] / (
            valid.sum() * grid.shape[1] * grid.shape[2]
        )
        mean = (grid * weights).sum((0, 1, 2))
        return mean, ((grid - mean) ** 2 * weights).sum((0, 1, 2))

    return {name: moments(grid) for name, grid in features.items()}


def init(key: PRNGKeyArray, widths: dict[str, int], class_count: int) -> Heads:
    """Draws a head for each of `widths`, name -> channels, all from one draw."""
    return {
        name: linear.init_head(key, width, class_count)
        for name, width in widths.items()
    }


def logits(
    head: dict[str, Array], features: Grid, size: tuple[int, int]
) -> Float[Array, "batch height width classes"]:
    """Scores of every pixel: those of the positions, enlarged bilinearly to `size`.

    Pixels' centres are aligned as in PyTorch with align_corners=False.
    """
    scores = linear.logits(head, features)
    shape = (len(scores), *size, scores.shape[-1])
    return jax.image.resize(scores, shape, "bilinear", antialias=False)


def loss(
    head: dict[str, Array],
    features: Grid,
    masks: UInt8[Array, "batch height width"],
    weights: Float[Array, "batch"],
) -> Float[Array, ""]:
    """Mean cross-entropy of the pixels that are not IGNORE, weighted by image."""
    counted = (masks != IGNORE) * weights[:, None, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(head, features, masks.shape[1:]), jnp.where(masks == IGNORE, 0, masks)
    )
    return (losses * counted).sum() / jnp.maximum(counted.sum(), 1)


def standardise(features: dict[str, Grid], statistics: Statistics) -> dict[str, Grid]:
    """Subtracts each channel's mean and divides by its standard deviation."""
    return {
        name: (grid - statistics[name][0]) / statistics[name][1]
        for name, grid in features.items()
    }


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnums=(1, 2))
def update(
    optimizer: linear.GradientRule,
    heads: list[Heads],
    opt_state: optax.OptState,
    features: dict[str, Grid],
    statistics: Statistics,
    masks: UInt8[Array, "batch height width"],
    weights: list[Float[Array, "batch"]],
) -> tuple[list[Heads], optax.OptState, Float[Array, ""]]:
    """One optimiser step of all heads. Returns them, the state and their mean loss.

    The heads' losses are summed: with Adam, a head is trained as it would be alone.

    Args:
      heads: sets of heads that learn from the same images.
      features: not standardised.
      weights: of the images, for each set; of weight 0, nothing is learned.
    """
    inputs = standardise(features, statistics)

    def total(heads):
        return sum(
            loss(head, inputs[name], masks, weight)
            for one_set, weight in zip(heads, weights, strict=True)
            for name, head in one_set.items()
        )

    value, gradient = jax.value_and_grad(total)(heads)
    updates, opt_state = optimizer.update(gradient, opt_state)
    count = sum(map(len, heads))
    return optax.apply_updates(heads, updates), opt_state, value / count


@functools.partial(jax.jit, static_argnames="size")
def predict(
    heads: Heads,
    features: dict[str, Grid],
    statistics: Statistics,
    size: tuple[int, int],
) -> dict[str, UInt8[Array, "batch height width"]]:
    """For each of the features, the most probable class of every pixel."""
    inputs = standardise(features, statistics)
    return {
        name: logits(head, inputs[name], size).argmax(-1).astype(jnp.uint8)
        for name, head in heads.items()
    }
