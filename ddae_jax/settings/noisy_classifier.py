"""Classifiers of noisy images."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, RATE, STEPS, WEIGHT


@dataclasses.dataclass(frozen=True)
class NoisyHeadSettings:
    """A two-layer head on frozen features."""

    epochs: int = setting(15, "passes over the images", least=1, most=STEPS, test=1)
    batch_size: int = setting(512, "over all devices", least=1, most=BATCH, test=16)
    learning_rate: float = setting(
        4e-3, "Adam's, for the whole batch", above=0, most=RATE
    )


@dataclasses.dataclass(frozen=True)
class WideResNetSettings:
    """A network from scratch: WRN-DEPTH-WIDEN."""

    depth: int = setting(28, "6 n + 4", least=10, most=1000, test=10)
    widen: int = setting(10, "factor of the widths", least=1, most=100, test=1)
    epochs: int = setting(200, "passes over the images", least=1, most=STEPS, test=1)
    warmup_epochs: int = setting(5, "linear from 0", least=0, most=STEPS)
    batch_size: int = setting(128, "over all devices", least=1, most=BATCH, test=16)
    learning_rate: float = setting(0.1, "SGD's", above=0, most=RATE)
    momentum: float = setting(0.9, "SGD's", least=0, below=1)
    weight_decay: float = setting(5e-4, "l2 on all parameters", least=0, most=1e3)


@dataclasses.dataclass(frozen=True)
class NoisyClassifierSettings:
    """What the task noisy_classifier trains and tests."""

    output: str = setting(
        "noisy_classifier",
        "names the results: noisy_classifier or noisy_classifier_X",
        pattern=r"noisy_classifier(_[A-Za-z0-9_-]{1,64})?",
    )
    kinds: tuple[str, ...] = setting(
        ("features", "wide_resnet"),
        "trained in turn",
        choices=("features", "wide_resnet"),
        lengths=(1, 2),
    )
    tap: str = setting(
        "", "of the features; empty: the probe's choice, else the published"
    )
    test_times: tuple[float, ...] = setting(
        (),
        "published convention of the process; empty: the published ones",
        least=0,
        most=WEIGHT,
    )
    test_noise_levels: tuple[float, ...] = setting(
        (), "sigma/alpha; instead of times where not empty", above=0, most=WEIGHT
    )
    flip: bool | None = setting(None, "mirror images; None: as the probe")
    crop: int | None = setting(
        None, "random crop: padding in pixels; None: as the probe", least=0, most=1024
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
    steps_per_dispatch: int = setting(
        1, "optimiser steps between looks at signals", least=1, most=100_000
    )
    log_every: int = setting(50, "steps", least=1, most=STEPS)
    checkpoint_every: int = setting(1000, "steps", least=1, most=STEPS)
    features: NoisyHeadSettings = NoisyHeadSettings()
    wide_resnet: WideResNetSettings = WideResNetSettings()
