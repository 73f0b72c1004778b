"""Alignment and uniformity."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, STEPS, WEIGHT


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings:
    """What the task contrastive measures."""

    output: str = setting(
        "contrastive",
        "names the files: contrastive or contrastive_NAME",
        pattern=r"contrastive(_[A-Za-z0-9_.-]{1,64})?",
    )
    taps: tuple[str, ...] = setting((), "empty: all", lengths=(0, 1000))
    times: tuple[float, ...] = setting(
        (),
        "published convention of the process; empty: its published one",
        least=0,
        most=WEIGHT,
    )
    noise_levels: tuple[float, ...] = setting(
        (), "sigma/alpha; instead of times where not empty", above=0, most=WEIGHT
    )
    steps: tuple[int, ...] = setting(
        (), "checkpoints; empty: all", least=0, most=STEPS, lengths=(0, 10_000)
    )
    count: int = setting(
        50_000,
        "training images, drawn at random; 0: all",
        least=0,
        most=COUNT,
        test=24,
    )
    batch_size: int = setting(
        128, "images of which uniformity takes all pairs", least=2, most=BATCH, test=16
    )
    forward_batch_size: int = setting(
        128,
        "images in one forward pass, over all devices",
        least=1,
        most=BATCH,
        test=16,
    )
