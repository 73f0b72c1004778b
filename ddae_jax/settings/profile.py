"""Where the time of training goes."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """A trace of pre-training, and a table of its time by kind of layer."""

    steps: int = setting(
        0,
        "optimiser steps that are traced, after two calls of the device; profile.txt, "
        "profile.json, and profile/ for TensorBoard or Perfetto; 0: none",
        least=0,
        most=1000,
    )
