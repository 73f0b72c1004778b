"""A user's own PyTorch UNet whose tensors have DDAE's official names and shapes.

Written from the description in shared/reference/ddae.md, not from our network.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Two convolutions, with the embedding added between them."""

    def __init__(self, inputs, outputs, embedding):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, outputs)
        self.conv2 = nn.Sequential(
            nn.Dropout(0.1), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = hidden + self.time_emb(embedding)[..., None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels)
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x):
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.projection(tokens).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.output(mixed).transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """A residual block, with attention or without."""

    def __init__(self, inputs, outputs, embedding, attention):
        super().__init__()
        self.res = Residual(inputs, outputs, embedding)
        self.attn = Attention(outputs) if attention else nn.Identity()

    def forward(self, x, embedding):
        return self.attn(self.res(x, embedding))


class Resample(nn.Module):
    """A convolution that halves the resolution, or one after doubling it."""

    def __init__(self, channels, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1)

    def forward(self, x, embedding):
        return self.conv(functional.interpolate(x, scale_factor=2) if self.up else x)


class TimeEmbedding(nn.Module):
    """Sinusoids, then an MLP."""

    def __init__(self, features):
        super().__init__()
        self.lin1 = nn.Linear(features // 4, features)
        self.lin2 = nn.Linear(features, features)

    def forward(self, time):
        half = self.lin1.in_features // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        angles = time[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.lin2(functional.silu(self.lin1(waves)))


class Middle(nn.Module):
    """The lowest resolution."""

    def __init__(self, channels, embedding):
        super().__init__()
        self.res1 = Residual(channels, channels, embedding)
        self.attn = Attention(channels)
        self.res2 = Residual(channels, channels, embedding)

    def forward(self, x, embedding):
        return self.res2(self.attn(self.res1(x, embedding)), embedding)


class UNet(nn.Module):
    """Two levels of 32 and 64 channels, one block each, attention on the second."""

    def __init__(self):
        super().__init__()
        self.image_proj = nn.Conv2d(3, 32, 3, padding=1)
        self.time_emb = TimeEmbedding(128)
        self.down = nn.ModuleList(
            [Block(32, 32, 128, False), Resample(32, False), Block(32, 64, 128, True)]
        )
        self.middle = Middle(64, 128)
        self.up = nn.ModuleList(
            [
                Block(64 + 64, 64, 128, True),
                Block(64 + 32, 64, 128, True),
                Resample(64, True),
                Block(64 + 32, 32, 128, False),
                Block(32 + 32, 32, 128, False),
            ]
        )
        self.norm = nn.GroupNorm(8, 32)
        self.final = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x, time):
        embedding = self.time_emb(time)
        x = self.image_proj(x)
        skips = [x]
        for module in self.down:
            x = module(x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for module in self.up:
            if isinstance(module, Block):
                x = torch.cat([x, skips.pop()], dim=1)
            x = module(x, embedding)
        return self.final(functional.silu(self.norm(x)))


def official_checkpoint(network: nn.Module, other: nn.Module) -> dict:
    """What DDAE's training script saves: `network` is the EMA, `other` is trained."""
    ema = {"initted": torch.tensor(True), "step": torch.tensor(7)}
    ema |= {f"ema_model.nn_model.{k}": v for k, v in network.state_dict().items()}
    ema |= {f"online_model.nn_model.{k}": v for k, v in other.state_dict().items()}
    optimizer = torch.optim.Adam(other.parameters())
    return {
        "MODEL": {f"module.nn_model.{k}": v for k, v in other.state_dict().items()},
        "EMA": ema,
        "opt": optimizer.state_dict(),
    }
