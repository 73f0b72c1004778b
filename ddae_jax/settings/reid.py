"""Person re-identification."""

import dataclasses

from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT, RATE, STEPS, WEIGHT

OUTPUT = r"reid(_[A-Za-z0-9_-]{1,64})?"


@dataclasses.dataclass(frozen=True)
class ResNetSettings:
    """A residual network of bottleneck blocks: ResNet-50 by default."""

    blocks: tuple[int, ...] = setting(
        (3, 4, 6, 3),
        "of each stage",
        least=1,
        most=200,
        lengths=(1, 6),
        test=lambda blocks: (1,) * len(blocks),
    )
    width: int = setting(64, "channels of its first stage", least=1, most=4096, test=4)
    last_stride: int = setting(1, "of the last stage", choices=(1, 2))
    weights: str = setting(
        "", "torchvision's .pth or .safetensors of it; empty: random", test=""
    )


@dataclasses.dataclass(frozen=True)
class ReidSettings:
    """What the task reid trains, and what it evaluates."""

    output: str = setting(
        "reid", "names the results: reid or reid_NAME", pattern=OUTPUT
    )
    model: str = setting(
        "",
        "evaluates what was trained under this output; empty: trains",
        pattern=rf"({OUTPUT})?",
    )
    folder: str = setting(
        "", "evaluated: DIR/query and DIR/gallery, named as Market1501's; empty: data's"
    )
    more_training: tuple[str, ...] = setting(
        (), "sets that are trained on too: NAME=FOLDER"
    )
    backbone: str = setting(
        "resnet",
        "what gives the map; denoiser: the checkpoint up to a tap",
        choices=("resnet", "denoiser"),
    )
    resnet: ResNetSettings = ResNetSettings()
    tap: str = setting(
        "", "of the denoiser; empty: the probe's choice, else the middle"
    )
    noise_level: float = setting(
        0.0, "sigma/alpha; 0: the probe's choice, else 0.05", least=0, most=WEIGHT
    )
    frozen: bool = setting(False, "the backbone is not trained")
    from_scratch: bool = setting(False, "a denoiser at random weights, for comparison")
    projection: int = setting(
        0,
        "channels of a linear map before the head; 0: none",
        least=0,
        most=1 << 16,
        test=lambda channels: min(channels, 8),
    )
    stripe_features: int = setting(128, "of each stripe", least=1, most=4096, test=8)
    pooling: str = setting("max", "over the width of a stripe", choices=("mean", "max"))
    mutual: bool = setting(False, "two networks teach each other; the first is tested")
    persons: int = setting(32, "in a batch, P", least=2, most=BATCH, test=4)
    images_each: int = setting(4, "of each in a batch, K", least=2, most=BATCH, test=2)
    repeat_images: bool = setting(
        False, "persons of fewer than K images give some of them again"
    )
    drop_single: bool = setting(False, "leave out persons of one image")
    margin: float = setting(0.3, "of the triplet losses", least=0, most=WEIGHT)
    local_weight: float = setting(
        1.0, "of the triplet loss of the stripes; 0: none", least=0, most=WEIGHT
    )
    identity_weight: float = setting(
        0.0, "of the softmax over the persons; 0: none", least=0, most=WEIGHT
    )
    label_smoothing: float = setting(0.0, "of that softmax", least=0, below=1)
    mutual_identity_weight: float = setting(
        1.0, "of the divergence of both softmaxes", least=0, most=WEIGHT
    )
    mutual_distance_weight: float = setting(
        1.0, "of the difference of both distance matrices", least=0, most=WEIGHT
    )
    normalise: bool = setting(False, "global features to unit length in training")
    normalise_test: bool = setting(True, "and in the test")
    epochs: int = setting(300, "passes over the persons", least=1, most=STEPS, test=2)
    decay_from: int = setting(
        150,
        "epoch from which the rate decays exponentially",
        least=0,
        most=STEPS,
        test=1,
    )
    decay_to: float = setting(
        1e-3, "factor of the rate after the last epoch", above=0, most=1
    )
    learning_rate: float = setting(2e-4, "Adam's", above=0, most=RATE)
    weight_decay: float = setting(5e-4, "l2, in Adam's gradient", least=0, most=1e3)
    flip: bool = setting(True, "mirror training images at random")
    crop: int = setting(0, "random crop: padding in pixels", least=0, most=1024)
    erase: float = setting(
        0.0, "probability of random erasing of a training image", least=0, most=1
    )
    distances: tuple[str, ...] = setting(
        ("global", "local", "summed"),
        "by which galleries are ranked",
        choices=("global", "local", "summed"),
        lengths=(1, 3),
    )
    rerank: bool = setting(True, "also rank by k-reciprocal neighbours")
    rerank_k1: int = setting(20, "neighbours", least=1, most=10_000, test=4)
    rerank_k2: int = setting(6, "of the query expansion", least=1, most=10_000, test=2)
    rerank_lambda: float = setting(0.3, "share of the distance itself", least=0, most=1)
    single_shot: int = setting(
        0,
        "draws of one gallery image a person (CUHK03's older protocol); 0: all",
        least=0,
        most=10_000,
    )
    multi_query: bool = setting(
        False, "also ask with the mean of a person's images of one camera"
    )
    test_batch_size: int = setting(
        128, "images, over all devices", least=1, most=BATCH, test=16
    )
    query_count: int = setting(
        0, "queries used, spread over the set; 0: all", least=0, most=COUNT, test=16
    )
    gallery_count: int = setting(
        0, "gallery images used, likewise; 0: all", least=0, most=COUNT, test=64
    )
    shown: int = setting(6, "queries in the picture", least=1, most=64, test=2)
    steps_per_dispatch: int = setting(
        1, "optimiser steps in one call of the device", least=1, most=100_000
    )
    log_every: int = setting(50, "steps", least=1, most=STEPS, test=1)
    checkpoint_every: int = setting(500, "steps", least=1, most=STEPS, test=2)

    def __post_init__(self):
        if self.decay_from > self.epochs:
            raise UserError(
                f"reid.decay_from: {self.decay_from}, but reid.epochs is {self.epochs}"
            )
        if self.from_scratch and self.backbone != "denoiser":
            raise UserError(
                "reid.from_scratch: of a denoiser; a resnet is random without "
                "reid.resnet.weights"
            )
        if self.label_smoothing and not self.identity_weight:
            raise UserError("reid.label_smoothing: reid.identity_weight is 0")
