"""Weights that go out."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What the task export writes."""

    path: str = setting("", "a new or empty folder")
    format: str = setting(
        "flax",
        "flax: our names; official: those of the published PyTorch code",
        choices=("flax", "official"),
    )
