"""Published trainings, by how many images they see."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training.

    Attributes:
      label: for people, with its source.
      network: a key of estimate.MEASURED.
      batch: images of a step, over all devices.
      steps: of the whole training.
    """

    label: str
    network: str
    batch: int
    steps: int


RECIPES = (
    # Xiang et al. 2023 (arXiv 2303.09769): 2000 epochs of CIFAR-10, with augmentation
    # 4000; configs/cifar10.py
    Recipe("DDAE: DDPM or EDM, UNet, CIFAR-10", "unet-ddpm", 512, 195_312),
    Recipe("DDAE: DDPM or EDM, DDPM++, CIFAR-10", "unet-ddpmpp", 256, 390_625),
    Recipe("DDAE: EDM with augmentation, CIFAR-10", "unet-ddpmpp", 512, 390_625),
    # Karras et al. 2022 (arXiv 2206.00364): 200 million images
    Recipe("EDM: DDPM++, CIFAR-10", "unet-ddpmpp", 512, 390_625),
    # Peebles and Xie 2023 (arXiv 2212.09748)
    Recipe("DiT-XL/2, ImageNet 256, 400 thousand steps", "dit-xl2", 256, 400_000),
    Recipe("DiT-XL/2, ImageNet 256, 7 million steps", "dit-xl2", 256, 7_000_000),
)
