"""What the parts of the task dense are given, and what they give."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.features import Encode
from ddae_jax.positions import GridEncoder
from ddae_jax.tasks.cell import Cell
from ddae_jax.tasks.common import Trained
from ddae_jax.tasks.outcome import Picture


@dataclasses.dataclass(frozen=True)
class Job:
    """Attributes:
    trained: the checkpoint.
    taps: of which positions are looked at.
    cell: the noise level of all parts, and the tap of retrieval.
    """

    trained: Trained
    taps: tuple[str, ...]
    cell: Cell

    def grid_encoder(self) -> Encode:
        """The taps per position."""
        return GridEncoder(self.trained.denoiser, self.taps)


@dataclasses.dataclass(frozen=True)
class Part:
    """What one part found.

    Attributes:
      summary: in half a line.
      facts: for dense.json.
      protocol: how it was measured.
      rows: (features, measure, value).
      picture: one.
    """

    summary: str
    facts: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[tuple[str, str, Any]]
    picture: Picture


def key(seed: int, part: int) -> PRNGKeyArray:
    """The noise of one part: 0 maps, 1 and 2 retrieval, 3 segmentation."""
    # 1 to 3 are those of training, the probe and the samples, and contrastive.
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 4), part)


def check_shape(source: Source, image_shape: tuple[int, ...]) -> None:
    """Raises a UserError where the network was made for other images."""
    if tuple(source.image_shape) != tuple(image_shape):
        raise UserError(
            f"config.data: images of {source.name} are {source.image_shape}, the "
            f"checkpoint was trained on {tuple(image_shape)}"
        )
