"""DDPM++ of EDM, 56.5 M parameters, in PyTorch: the blocks of our SongUNet's defaults.

diffusers has no such network. This one is written from ours, for speed alone: it has
the same layers and parameters, and PyTorch's initial values.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import theirs

_CHANNELS, _EMBEDDING, _AUGMENT, _BLOCKS = 128, 512, 9, 4
_LEVELS = ((256, False), (256, True), (256, False))  # width, attention; finest first
_RESAMPLE = {
    None: nn.Identity(),
    "down": nn.AvgPool2d(2),
    "up": nn.Upsample(scale_factor=2),
}


class Attention(nn.Module):
    """Self-attention over all positions with one head."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.projection = nn.Conv2d(channels, 3 * channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        hidden = self.projection(self.norm(x)).flatten(2).transpose(1, 2)
        query, key, value = hidden[:, None].chunk(3, dim=-1)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.output(attended[:, 0].transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Residual block, with resampling and attention where asked."""

    def __init__(self, before: int, after: int, attention=False, resample=None):
        super().__init__()
        self.move = _RESAMPLE[resample]
        self.norm1 = nn.GroupNorm(32, before, eps=1e-6)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.embedding = nn.Linear(_EMBEDDING, after)
        self.norm2 = nn.GroupNorm(32, after, eps=1e-6)
        self.dropout = nn.Dropout(0.13)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        mapped = before != after or resample
        self.shortcut = nn.Conv2d(before, after, 1) if mapped else nn.Identity()
        self.attention = Attention(after) if attention else None

    def forward(self, x, embedding):
        hidden = self.move(functional.silu(self.norm1(x)))
        hidden = self.conv1(hidden) + self.embedding(embedding)[:, :, None, None]
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        x = (self.shortcut(self.move(x)) + hidden) * math.sqrt(0.5)
        if self.attention is not None:
            x = (x + self.attention(x)) * math.sqrt(0.5)
        return x


class SongUNet(nn.Module):
    """Images and ln(sigma) / 4 -> the raw output."""

    def __init__(self):
        super().__init__()
        self.augment = nn.Linear(_AUGMENT, _CHANNELS, bias=False)
        self.linear1 = nn.Linear(_CHANNELS, _EMBEDDING)
        self.linear2 = nn.Linear(_EMBEDDING, _EMBEDDING)
        self.first = nn.Conv2d(3, _CHANNELS, 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        width, widths = _CHANNELS, [_CHANNELS]
        for level, (after, attention) in enumerate(_LEVELS):
            if level:
                self.encoder.append(Block(width, width, resample="down"))
                widths.append(width)
            for _ in range(_BLOCKS):
                self.encoder.append(Block(width, after, attention))
                width = after
                widths.append(width)
        self.middle = nn.ModuleList([Block(width, width, True), Block(width, width)])
        for level, (after, attention) in reversed(list(enumerate(_LEVELS))):
            blocks = nn.ModuleList()
            if level < len(_LEVELS) - 1:
                blocks.append(Block(width, width, resample="up"))
            for i in range(_BLOCKS + 1):
                last = attention and i == _BLOCKS
                blocks.append(Block(width + widths.pop(), after, last))
                width = after
            self.decoder.append(blocks)
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, time):
        half = _CHANNELS // 2
        steps = torch.arange(half, device=x.device) / (half - 1)
        angles = time[:, None] * 10000**-steps
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedding = embedding + self.augment(x.new_zeros(len(x), _AUGMENT))
        embedding = functional.silu(self.linear1(embedding))
        embedding = functional.silu(self.linear2(embedding))
        x = self.first(x)
        skips = [x]
        for block in self.encoder:
            x = block(x, embedding)
            skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        for blocks in self.decoder:
            for block in blocks:
                if len(blocks) == _BLOCKS + 1 or block is not blocks[0]:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, embedding)
        return self.last(functional.silu(self.norm(x)))


def trainer(
    images: np.ndarray, device: str, dtype: str, compiled: bool, steps: int
) -> Callable[[], None]:
    """Returns a call that does `steps` optimiser steps of EDM on uint8 `images`."""
    network = SongUNet().to(device, memory_format=torch.channels_last)
    forward = torch.compile(network) if compiled else network
    images = theirs.place(images, device, channels_last=True)

    def loss():
        x0 = theirs.to_float(images)
        log_sigma = torch.randn(len(x0), 1, 1, 1, device=device) * 1.2 - 1.2
        sigma = log_sigma.exp()
        x_t = x0 + sigma * torch.randn_like(x0)
        total = sigma.square() + 0.25
        with theirs.precision(device, dtype):
            output = forward(x_t / total.sqrt(), log_sigma.flatten() / 4)
        output = output.float() * sigma * 0.5 / total.sqrt()
        error = x_t * 0.25 / total + output - x0
        return (total / (sigma * 0.5).square() * error.square()).mean()

    return theirs.optimise(network, loss, device, 1e-3, steps)
