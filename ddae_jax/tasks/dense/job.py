"""What the parts of the task dense are given, and what they give."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ddae_jax.experiment import common
from ddae_jax.experiment.cell import Cell
from ddae_jax.experiment.common import Trained
from ddae_jax.features.encode import Encode
from ddae_jax.features.spatial import GridEncoder
from ddae_jax.report.outcome import Picture


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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) to which image files are brought."""
        latents = self.trained.latents
        return self.trained.image_shape if latents is None else latents.image_shape

    def grid_encoder(self) -> Encode:
        """The taps per position."""
        return GridEncoder(common.encoder(self.trained, self.taps, pooled=False))


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
