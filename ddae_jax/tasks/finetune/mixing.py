"""Soft targets: label smoothing, mixup, CutMix. Pure functions of a whole batch."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Images = Float[Array, "batch height width channels"]
Targets = Float[Array, "batch classes"]


def smooth_targets(
    labels: Int[Array, "batch"], class_count: int, smoothing: float = 0.0
) -> Targets:
    """One-hot targets of which `smoothing` is spread evenly over all classes.

    Szegedy et al. 2016 (arXiv 1512.00567, section 7).
    """
    one_hot = jax.nn.one_hot(labels, class_count)
    return one_hot * (1 - smoothing) + smoothing / class_count


def mixup(
    images: Images, targets: Targets, share: Float[Array, ""] | float
) -> tuple[Images, Targets]:
    """`share` of each image plus the rest of its partner (arXiv 1710.09412, eq. 1).

    Image i's partner is image -1 - i of the batch.
    """
    return tuple(share * x + (1 - share) * x[::-1] for x in (images, targets))


def cutmix_box(
    key: PRNGKeyArray, share: Float[Array, ""] | float, height: int, width: int
) -> tuple[Array, Array, Array, Array]:
    """Draws (top, bottom, left, right) of a box that covers about 1 - `share`.

    Its centre is uniform over the image; what lies outside is cut off (CutMix, arXiv
    1905.04899, algorithm 1).
    """
    side = jnp.sqrt(1 - share)
    edges = []
    for axis_key, length in zip(jax.random.split(key), (height, width), strict=True):
        half = (length * side).astype(jnp.int32) // 2
        centre = jax.random.randint(axis_key, (), 0, length)
        edges += [
            jnp.clip(centre - half, 0, length),
            jnp.clip(centre + half, 0, length),
        ]
    return tuple(edges)


def cutmix(
    images: Images, targets: Targets, box: tuple[Array, Array, Array, Array]
) -> tuple[Images, Targets]:
    """Puts the partner's pixels into the box, and its target by the box's true area.

    Image i's partner is image -1 - i of the batch.

    Args:
      box: top, bottom, left, right in pixels; bottom and right are outside.
    """
    top, bottom, left, right = box
    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside = ((rows >= top) & (rows < bottom))[:, None] & (
        (columns >= left) & (columns < right)
    )
    mixed = jnp.where(inside[None, :, :, None], images[::-1], images)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, share * targets + (1 - share) * targets[::-1]


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixup or CutMix of every batch; with both on, either by the toss of a coin.

    Attributes:
      mixup: alpha of the Beta(alpha, alpha) that mixup's share is drawn from; 0: off.
      cutmix: the same of CutMix.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, key: PRNGKeyArray, images: Images, targets: Targets
    ) -> tuple[Images, Targets]:
        """Mixes a batch; one share, and one box, for all of it."""
        coin, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
        ways = []
        if self.mixup:
            share = jax.random.beta(mixup_key, self.mixup, self.mixup)
            ways.append(mixup(images, targets, share))
        if self.cutmix:
            share = jax.random.beta(cutmix_key, self.cutmix, self.cutmix)
            box = cutmix_box(box_key, share, *images.shape[1:3])
            ways.append(cutmix(images, targets, box))
        if not ways:
            return images, targets
        if len(ways) == 1:
            return ways[0]
        heads = jax.random.bernoulli(coin)
        return jax.tree.map(lambda a, b: jnp.where(heads, a, b), *ways)
