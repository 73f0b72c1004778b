"""Fine-tuning."""

import dataclasses
import math

from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, RATE, STEPS, WEIGHT


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """The recipe of fine-tuning."""

    output: str = setting(
        "finetune",
        "names the results: finetune or finetune_NAME",
        pattern=r"finetune[A-Za-z0-9_-]{0,64}",
    )
    from_scratch: bool = setting(False, "random weights, for comparison")
    tap: str = setting("", "empty: what the probe chose, else the middle one")
    noise_level: float = setting(
        0.0, "sigma/alpha; 0: what the probe chose, else 0.05", least=0, most=WEIGHT
    )
    time: float | None = setting(
        None, "published convention; instead of the level", least=0, most=WEIGHT
    )
    epochs: int = setting(50, "passes over the images", least=1, most=STEPS, test=2)
    batch_size: int = setting(128, "over all devices", least=1, most=BATCH, test=16)
    learning_rate: float = setting(
        5e-4, "AdamW's, of the head; cosine to 0", above=0, most=RATE
    )
    warmup_epochs: int = setting(5, "linear from 0", least=0, most=STEPS, test=1)
    weight_decay: float = setting(0.05, "decoupled", least=0, most=1e3)
    layer_decay: float = setting(
        0.9, "factor of the rate per layer down; from scratch: 1", above=0, most=1
    )
    clip_norm: float = setting(
        1.0, "gradient clipping, global norm; inf: none", above=0, most=math.inf
    )
    ema_decay: float = setting(
        0.999, "the cap: it warms up as in pre-training", least=0, most=1
    )
    mixup: float = setting(0.0, "alpha of its Beta; 0: off", least=0, most=1e3)
    cutmix: float = setting(0.0, "alpha of its Beta; 0: off", least=0, most=1e3)
    label_smoothing: float = setting(0.0, "share over all classes", least=0, most=1)
    drop_path: float = setting(
        0.0, "at the last block; transformers have it", least=0, below=1
    )
    dropout: float | None = setting(None, "None: the network's own", least=0, below=1)
    flip: bool | None = setting(None, "mirror images; None: as the probe")
    crop: int | None = setting(
        None, "random crop: pixels; None: as the probe", least=0, most=1024
    )
    label_fraction: float = setting(
        1.0, "share of each class's images, at least one", above=0, most=1
    )
    train_count: int = setting(
        0,
        "training images used, spread over the set; 0: all",
        least=0,
        most=COUNT,
        test=64,
    )
    test_count: int = setting(
        0, "test images used, likewise; 0: all", least=0, most=COUNT, test=32
    )
    eval_every: int = setting(
        1, "epochs between tests, each with a checkpoint", least=1, most=STEPS, test=1
    )

    steps_per_dispatch: int = setting(
        1, "optimiser steps in one call of the device", least=1, most=100_000
    )

    def __post_init__(self):
        if self.time is not None and self.noise_level:
            raise UserError(
                "finetune.time: give this or finetune.noise_level, not both"
            )
