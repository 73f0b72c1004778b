"""What the parts of the task dense are given, and what they give."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ddae_jax.experiment.cell import TapAtTime
from ddae_jax.experiment.trained import Trained
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
    cell: TapAtTime

    def grid_encoder(self) -> Encode:
        """The taps per position."""
        return GridEncoder(self.trained.encoder(self.taps, pooled=False))


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
