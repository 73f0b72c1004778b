"""The autoencoder of a denoiser of latents."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH


@dataclasses.dataclass(frozen=True)
class AutoencoderSettings:
    """The autoencoder of a denoiser of latents."""

    folder: str = setting("", "where import put it; empty: WORKDIR/autoencoder")
    scale: float | None = setting(
        None, "of latents; None: the autoencoder's own", above=0, most=1e6
    )
    sample_posterior: bool = setting(
        True, "encode to a draw, as published; else to the mean"
    )
    batch_size: int = setting(64, "images in it at a time", least=1, most=BATCH)
