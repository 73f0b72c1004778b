"""Probe and distance over the checkpoints."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import STEPS


@dataclasses.dataclass(frozen=True)
class TrackSettings:
    """What the task track measures."""

    output: str = setting(
        "track",
        "names the files: track or track_NAME",
        pattern=r"track(_[A-Za-z0-9_.-]{1,64})?",
    )
    steps: tuple[int, ...] = setting(
        (), "checkpoints; empty: all", least=0, most=STEPS, lengths=(0, 10_000)
    )
    measures: tuple[str, ...] = setting(
        ("probe", "fid"),
        "fid is left out where its files are missing",
        choices=("probe", "fid"),
        lengths=(1, 2),
    )
