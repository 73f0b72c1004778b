"""DiT/2 in PyTorch: diffusers' DiTTransformer2DModel of the same sizes."""

from collections.abc import Callable

import diffusers
import torch

from benchmarks import theirs

SIZES = {
    "B": {"num_attention_heads": 12, "attention_head_dim": 64, "num_layers": 12},
    "XL": {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28},
}


def build(
    device: str, size: str = "B", share_embedding: bool = False
) -> diffusers.DiTTransformer2DModel:
    """DiT with patches of 2, learned variance, 1000 classes and none.

    diffusers gives every block its own embedding of time and class, so that it has more
    parameters; the blocks themselves are DiT's. With `share_embedding` all blocks use
    the first one's, as DiT's do.
    """
    network = diffusers.DiTTransformer2DModel(
        **SIZES[size], in_channels=4, out_channels=8, sample_size=32, patch_size=2
    )
    if share_embedding:
        blocks = network.transformer_blocks
        for block in blocks:
            block.norm1.emb = blocks[0].norm1.emb
    return network.to(device)


def _inputs(batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x0 = torch.randn(batch, 4, 32, 32, device=device)
    time = torch.randint(0, 1000, (batch,), device=device)
    return x0, time, torch.full((batch,), 1000, device=device)


def forward(
    network: torch.nn.Module, batch: int, device: str, dtype: str
) -> Callable[[], None]:
    """Returns a call that runs the network once."""
    network.eval()
    x0, time, labels = _inputs(batch, device)

    @torch.no_grad()
    def run():
        with theirs.precision(device, dtype):
            network(x0, time, labels)
        theirs.synchronise(device)

    return run


def trainer(
    network: torch.nn.Module,
    batch: int,
    device: str,
    dtype: str,
    compiled: bool = False,
    steps: int = 1,
) -> Callable[[], None]:
    """Returns a call that does `steps` optimiser steps, with clipping and EMA."""
    forward = torch.compile(network) if compiled else network
    x0, time, labels = _inputs(batch, device)
    levels = theirs.alpha_bars(device)

    def loss():
        noise = torch.randn_like(x0)
        level = levels[time][:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        with theirs.precision(device, dtype):
            output = forward(x_t, time, labels).sample
        return torch.nn.functional.mse_loss(output[:, :4].float(), noise)

    return theirs.optimise(network, loss, device, 1e-4, steps)
