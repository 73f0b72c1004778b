"""Latents of a data set on disk."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
    """How the task encode turns the images of config.data into latents."""

    folder: str = setting("", "to write; empty: WORKDIR/latents")
    mirrored: bool = setting(
        True, "the mirrored images too, which train.flip needs; twice the size"
    )
    normalise: str = setting(
        "scale",
        "scale: times the autoencoder's; channels: minus the mean over the standard "
        "deviation of each channel in the training set, as LightningDiT does",
        choices=("scale", "channels"),
    )
    dtype: str = setting(
        "float16", "of the moments on disk", choices=("float16", "float32")
    )
    batch_size: int = setting(
        64, "images, over all devices", least=1, most=BATCH, test=8
    )
    file_images: int = setting(
        4096,
        "images of one file: what an interruption can cost",
        least=1,
        most=COUNT,
        test=16,
    )
