"""The search for the source of self-conditioning, where its tap is "auto"."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import STEPS

DEFAULT, AUTO = "default", "auto"
"""Values of network.self_condition.tap that are no tap's name."""


@dataclasses.dataclass(frozen=True)
class SourceSearchSettings:
    """Short runs, one per tap, from the same weights on the same images and noise."""

    steps: int = setting(
        500, "optimiser steps of each run", least=2, most=STEPS, test=2
    )
    taps: tuple[str, ...] = setting((), "candidates; empty: all that can be")
