"""Which checkpoint later tasks read."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import STEPS


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """Which checkpoint later tasks read."""

    step: int = setting(-1, "of the checkpoint; -1: the latest", least=-1, most=STEPS)
