"""Classifiers on frozen features."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, RATE, STEPS, WEIGHT


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """What the task probe measures, and how."""

    taps: tuple[str, ...] = setting((), "empty: all", lengths=(0, 1000))
    times: tuple[float, ...] = setting(
        (),
        "published convention of the process; empty: its published ones",
        least=0,
        most=WEIGHT,
        test=lambda times: times[:2],
    )
    noise_levels: tuple[float, ...] = setting(
        (),
        "sigma/alpha; instead of times where not empty",
        above=0,
        most=WEIGHT,
        test=lambda levels: levels[:2],
    )
    classifier: str = setting(
        "adam",
        "adam: as published; logistic: converged; ridge; knn; attentive: positions",
        pattern=r"[A-Za-z][A-Za-z0-9_]{0,63}",
    )
    output: str = setting(
        "probe",
        "names the files: probe or probe_NAME",
        pattern=r"probe(_[A-Za-z0-9_.-]{1,64})?",
    )
    epochs: int = setting(15, "of adam and attentive", least=1, most=STEPS, test=1)
    batch_size: int = setting(512, "over all devices", least=1, most=BATCH, test=16)
    learning_rate: float = setting(
        4e-3, "Adam's, for the whole batch", above=0, most=RATE
    )
    flip: bool = setting(True, "mirror training images at random (adam, attentive)")
    crop: int = setting(
        4,
        "random crop: padding in pixels; 0: none (adam, attentive)",
        least=0,
        most=1024,
    )
    l2: float = setting(
        1e-3, "of logistic, on standardised features", least=0, most=WEIGHT
    )
    ridge_l2: tuple[float, ...] = setting(
        (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0),
        "chosen on held-out images",
        above=0,
        most=1e12,
        lengths=(1, 64),
    )
    knn_k: int = setting(20, "neighbours", least=1, most=100_000)
    knn_metric: tuple[str, ...] = setting(
        ("cosine", "euclidean"),
        "chosen on held-out images",
        choices=("cosine", "euclidean"),
        lengths=(1, 2),
    )
    knn_temperature: float = setting(
        0.07, "cosine votes: exp(similarity / it); 0: one each", least=0, most=1e6
    )
    attentive_heads: int = setting(
        8, "of the attention; they divide the tap's channels", least=1, most=1024
    )
    attentive_queries: int = setting(1, "learned queries", least=1, most=1024)
    concat: str = setting(
        "",
        "one cell of all taps, times or both",
        choices=("", "taps", "times", "both"),
    )
    draws: int = setting(
        1, "of the noise; logistic, ridge, knn take mean features", least=1, most=1000
    )
    shifts: int = setting(
        1,
        "pixels down and right, from 0, over which features are averaged; 2 serves "
        "both alignments with a stride of 2",
        least=1,
        most=64,
        test=lambda shifts: min(shifts, 2),
    )
    label_fraction: float = setting(
        1.0, "share of each class's images, at least one", above=0, most=1
    )
    cache: bool = setting(True, "keep features of logistic, ridge, knn on disk")
    cache_folder: str = setting("", "empty: WORKDIR/features")
    held_out: float = setting(
        0.1,
        "share of the training set that chooses tap and time",
        above=0,
        below=1,
        test=0.5,
    )
    seeds: int = setting(
        1,
        "repeat with other noise and held-out images; the mean is reported",
        least=1,
        most=1000,
        test=lambda seeds: min(seeds, 2),
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
    baselines: bool = setting(True, "also probe raw pixels and the network untrained")
