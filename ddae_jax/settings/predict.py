"""The user's own images."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, WEIGHT


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """What the task predict reads and writes."""

    images: str = setting("", "a file or a folder of images")
    head: str = setting(
        "probe",
        "probe: logistic; finetune; or empty: features alone",
        choices=("", "probe", "finetune"),
    )
    tap: str = setting(
        "", "of the head probe; empty: the probe's choice, else the middle"
    )
    noise_level: float = setting(
        0.0, "sigma/alpha; 0: the probe's choice, else 0.05", least=0, most=WEIGHT
    )
    train_count: int = setting(
        0,
        "training images that the head is fitted on, spread over the set; 0: all",
        least=0,
        most=COUNT,
        test=64,
    )
    batch_size: int = setting(128, "over all devices", least=1, most=BATCH, test=16)
