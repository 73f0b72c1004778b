"""The page: that of the report, and the tab on which an image is looked at."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ddae_jax.experiment import Experiment
from ddae_jax.report import page
from ddae_jax.tasks import report
from ddae_jax.tasks.explore import answers
from ddae_jax.tasks.explore.explorer import Explorer
from ddae_jax.tasks.explore.uploads import MOST_BYTES


@dataclasses.dataclass(frozen=True)
class Panel:
    """What stands on the tab before anything is asked; the template escapes names.

    Attributes:
      images: (data URL, name) of those to choose from.
      levels: noise levels of the slider.
      opened_at: which of them.
      taps: all that are shown.
      tap: whose neighbours are shown first.
      words: in the notes below the pictures.
      most_bytes: of an image of the user's own.
    """

    images: Sequence[tuple[str, str]]
    levels: Sequence[float]
    opened_at: int
    taps: Sequence[str]
    tap: str
    words: Mapping[str, Any]
    most_bytes: int = MOST_BYTES
    template: ClassVar[str] = "explorer.html"


def render(experiment: Experiment, explorer: Explorer) -> str:
    """The whole page, as HTML."""
    return report.page_of(
        experiment, [page.PageSection("", [_panel(explorer)], "Explore")]
    )


def _panel(explorer: Explorer) -> Panel:
    chosen, references = explorer.chosen, explorer.references
    pixels = chosen.source.read(range(len(chosen.names)))
    predictor = explorer.predictor
    return Panel(
        images=list(zip(map(answers.png, pixels), chosen.names, strict=True)),
        levels=[level.noise_level for level in explorer.levels],
        opened_at=explorer.opened_at,
        taps=explorer.taps,
        tap=explorer.cell.tap,
        words={
            "images": chosen.what,
            "references": f"{len(references.names)} {references.what}",
            "opened_at": explorer.cell.time.noise_level,
            "clusters": explorer.clusters,
            "head": None
            if predictor is None
            else {"tap": predictor.tap, "noise_level": predictor.noise_level},
        },
    )
