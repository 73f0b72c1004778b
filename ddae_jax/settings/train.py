"""Pre-training."""

import dataclasses
import math

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, RATE, STEPS


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The recipe of pre-training; all numbers are over all devices."""

    batch_size: int = setting(
        128, "images of one optimiser step", least=1, most=BATCH, test=8
    )
    steps: int = setting(1000, "optimiser steps", least=0, most=STEPS, test=4)
    learning_rate: float = setting(
        4e-4, "Adam's, for the whole batch", above=0, most=RATE
    )
    warmup_steps: int = setting(100, "linear from 0", least=0, most=STEPS, test=2)
    decay_from: int = setting(
        0, "from this step on 1/sqrt(step); 0: constant", least=0, most=STEPS
    )
    adam_b1: float = setting(0.9, "decay of the first moment", least=0, below=1)
    adam_b2: float = setting(0.999, "decay of the second moment", least=0, below=1)
    adam_epsilon: float = setting(1e-8, "of Adam", above=0, most=1)
    weight_decay: float = setting(0.0, "decoupled, AdamW's", least=0, most=1e3)
    clip_norm: float = setting(
        1.0, "gradient clipping, global norm; inf: none", above=0, most=math.inf
    )
    ema_decay: float = setting(0.9999, "the cap, with ema_warmup", least=0, most=1)
    ema_warmup: bool = setting(True, "1 - (1 + step)^(-2/3) up to the cap")
    flip: bool = setting(True, "mirror images left to right at random")
    augment_probability: float = setting(
        0.0, "of each EDM augmentation; needs augment_channels=9", least=0, most=1
    )
    class_conditional: bool = setting(False, "give the network the classes")
    label_dropout: float = setting(
        0.1, 'share of labels replaced by "no class"', least=0, most=1
    )
    steps_per_dispatch: int = setting(
        1,
        "optimiser steps in one call of the device; of heads and FID's classifier, too",
        least=1,
        most=100_000,
    )
    accumulate: int = setting(
        1,
        "parts of a batch that take the device's memory in turn; the result is the "
        "same to rounding",
        least=1,
        most=BATCH,
    )
    log_every: int = setting(50, "steps", least=1, most=STEPS, test=2)
    wandb: str = setting(
        "", "project of Weights & Biases that gets the log of pre-training, too"
    )
    sample_every: int = setting(
        0,
        "steps between grids of samples in the log; 0: never",
        least=0,
        most=STEPS,
        test=4,
    )
    checkpoint_every: int = setting(1000, "steps", least=1, most=STEPS, test=2)
    keep_latest: int = setting(2, "checkpoints", least=1, most=100_000)
    keep_every: int = setting(
        0,
        "keep checkpoints of multiples of this step, too; 0: none",
        least=0,
        most=STEPS,
        test=lambda steps: min(steps, 2),
    )
    keep_best: bool = setting(True, "keep the one of the lowest training loss, too")
    start_from: str = setting(
        "",
        "workdir or exported folder whose EMA weights the run begins with; parameters "
        "that are new here start at their initial values",
    )
    start_step: int = setting(
        -1,
        "checkpoint of a workdir to start from; -1: the latest",
        least=-1,
        most=STEPS,
    )
