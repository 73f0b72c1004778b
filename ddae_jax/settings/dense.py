"""Positions and neighbours."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, RATE, STEPS, WEIGHT


@dataclasses.dataclass(frozen=True)
class DenseSettings:
    """What the task dense shows and measures."""

    output: str = setting(
        "dense",
        "names the files: dense or dense_NAME",
        pattern=r"dense(_[A-Za-z0-9_.-]{1,64})?",
    )
    parts: tuple[str, ...] = setting(
        ("maps", "retrieval"),
        "and segmentation",
        choices=("maps", "retrieval", "segmentation"),
        lengths=(1, 3),
    )
    taps: tuple[str, ...] = setting(
        (),
        "of maps and segmentation; empty: four, spread over the depth",
        lengths=(0, 1000),
    )
    tap: str = setting("", "of retrieval; empty: the probe's choice, else the middle")
    noise_level: float = setting(
        0.0, "sigma/alpha; 0: the probe's choice, else 0.05", least=0, most=WEIGHT
    )
    batch_size: int = setting(64, "over all devices", least=1, most=BATCH, test=16)
    images: str = setting("", "of maps: a file or folder; empty: some test images")
    scale: int = setting(
        2,
        "of config.dense.images: their shorter side, in sides of the network's input",
        least=1,
        most=16,
    )
    count: int = setting(8, "images in the picture of maps", least=1, most=64, test=3)
    clusters: int = setting(6, "of k-means", least=2, most=1000, test=3)
    queries: int = setting(
        256, "test images whose neighbours are looked up", least=1, most=COUNT, test=8
    )
    neighbours: int = setting(8, "of each query", least=1, most=10_000, test=3)
    gallery: int = setting(
        8, "queries in the picture of neighbours", least=1, most=64, test=2
    )
    train_count: int = setting(
        0,
        "training images that are searched, spread over the set; 0: all",
        least=0,
        most=COUNT,
        test=64,
    )
    train_images: str = setting("", "of segmentation: a folder of images")
    train_masks: str = setting("", "PNG files of class indices; 255 is ignored")
    test_images: str = setting("", "of segmentation: a folder of images")
    test_masks: str = setting("", "PNG files of class indices; 255 is ignored")
    classes: int = setting(
        0, "in the masks; 0: up to the highest index in training", least=0, most=255
    )
    held_out: float = setting(
        0.1, "share of the training images that chooses the tap", above=0, below=1
    )
    epochs: int = setting(20, "of segmentation", least=1, most=STEPS, test=1)
    learning_rate: float = setting(1e-2, "Adam's; cosine to 0", above=0, most=RATE)
