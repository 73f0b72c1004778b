"""The FID graph's Inception-v3 as a PyTorch module, under pytorch-fid's names."""

import torch
from torch import nn
from torch.nn import functional

from ddae_jax.models.inception import (
    BLOCKS,
    CLASSES,
    FEATURES,
    IMAGE_SIZE,
    POOLED_AFTER,
    STEM,
    Block,
    Conv,
)
from ddae_jax.weights.inception import EPSILON


class ConvNormReLU(nn.Module):
    """A convolution without bias, batch normalisation and a ReLU."""

    def __init__(self, conv: Conv, channels: int):
        super().__init__()
        padding = tuple(before for before, _ in conv.padding)
        window = (conv.height, conv.width)
        self.conv = nn.Conv2d(
            channels, conv.features, window, conv.stride, padding, bias=False
        )
        self.bn = nn.BatchNorm2d(conv.features, eps=EPSILON)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """A mixed block; `outputs` is its number of channels."""

    def __init__(self, block: Block, channels: int):
        super().__init__()
        self.block = block
        self.outputs = 0
        for branch in block.branches:
            width = channels
            for step in branch:
                for conv in step:
                    self.add_module(conv.name, ConvNormReLU(conv, width))
                width = step[0].features
            self.outputs += sum(conv.features for conv in branch[-1])
        if block.pool_features:
            conv = Conv("branch_pool", block.pool_features)
            self.add_module(conv.name, ConvNormReLU(conv, channels))
        self.outputs += block.pool_features or channels

    def forward(self, x):
        outputs = []
        for branch in self.block.branches:
            parts = [x]
            for step in branch:
                (source,) = parts
                parts = [getattr(self, conv.name)(source) for conv in step]
            outputs += parts
        if self.block.pool == "average":
            pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            outputs.append(self.branch_pool(pooled))
        elif self.block.pool == "max":
            outputs.append(self.branch_pool(functional.max_pool2d(x, 3, 1, 1)))
        else:
            outputs.append(functional.max_pool2d(x, 3, 2))
        return torch.cat(outputs, 1)


class InceptionV3(nn.Module):
    """Images in [0, 1] -> pool_3, with pytorch-fid's way of resizing."""

    def __init__(self):
        super().__init__()
        channels = 3
        for conv in STEM:
            self.add_module(conv.name, ConvNormReLU(conv, channels))
            channels = conv.features
        for name, block in BLOCKS.items():
            self.add_module(name, Mixed(block, channels))
            channels = getattr(self, name).outputs
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images):
        x = functional.interpolate(
            images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False
        )
        x = 2 * x - 1
        for conv in STEM:
            x = getattr(self, conv.name)(x)
            if conv.name in POOLED_AFTER:
                x = functional.max_pool2d(x, 3, 2)
        for name in BLOCKS:
            x = getattr(self, name)(x)
        return x.mean(dim=(2, 3))


def build(seed: int = 0) -> InceptionV3:
    """Random weights whose activations neither vanish nor explode, in eval mode."""
    torch.manual_seed(seed)
    network = InceptionV3().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network
