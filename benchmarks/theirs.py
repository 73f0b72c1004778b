"""The same work with diffusers' UNet2DModel in PyTorch."""

import contextlib
from collections.abc import Callable

import diffusers
import numpy as np
import torch

# The names of our taps in diffusers' up path: three blocks a level.
TAPS = {f"out_{i + 1}": divmod(i, 3) for i in range(12)}


class _Reached(Exception):
    """Raised by the hook on the tap: stops the forward pass there."""


def build(device: str, channels_last: bool) -> diffusers.UNet2DModel:
    """google/ddpm-cifar10-32's architecture with dropout 0.1: DDPM's 35.7 M."""
    network = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2),
        up_block_types=(*["UpBlock2D"] * 2, "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=256,
        dropout=0.1,
    ).to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def parameter_count(network: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def alpha_bars(device: str) -> torch.Tensor:
    """Products of 1 - beta for the linear schedule, t = 1..1000."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _precision(device: str, dtype: str):
    if dtype == "bfloat16":
        return torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext()


def _to_float(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _place(images: np.ndarray, device: str, channels_last: bool) -> torch.Tensor:
    images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.contiguous(memory_format=layout)


def trainer(
    network: torch.nn.Module,
    images: np.ndarray,
    device: str,
    dtype: str,
    channels_last: bool,
    compiled: bool,
) -> Callable[[], None]:
    """Returns a call that does one optimiser step on uint8 NHWC `images`."""
    network.train()
    forward = torch.compile(network) if compiled else network
    parameters = list(network.parameters())
    ema = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=4e-4)
    levels = alpha_bars(device)
    images = _place(images, device, channels_last)

    def run():
        x0 = _to_float(images)
        time = torch.randint(0, 1000, (len(x0),), device=device)
        noise = torch.randn_like(x0)
        level = levels[time][:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        with _precision(device, dtype):
            output = forward(x_t, time, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(output.float(), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - 0.9999)
        _synchronise(device)

    return run


def sampler(
    network: torch.nn.Module,
    batch: int,
    steps: int,
    device: str,
    dtype: str,
    compiled: bool,
) -> Callable[[], None]:
    """Returns a call that samples `batch` images with deterministic DDIM."""
    network.eval()
    forward = torch.compile(network) if compiled else network
    levels = alpha_bars(device)
    times = list(range(0, 1000, 1000 // steps))[::-1]

    @torch.no_grad()
    def run():
        x = torch.randn(batch, 3, 32, 32, device=device)
        for time, after in zip(times, [*times[1:], None], strict=True):
            level = levels[time]
            next_level = levels[after] if after is not None else torch.ones_like(level)
            with _precision(device, dtype):
                output = forward(x, time, return_dict=False)[0].float()
            x0 = ((x - (1 - level).sqrt() * output) / level.sqrt()).clamp(-1, 1)
            direction = (x - level.sqrt() * x0) / (1 - level).sqrt()
            x = next_level.sqrt() * x0 + (1 - next_level).sqrt() * direction
        _synchronise(device)

    return run


def extractor(
    network: torch.nn.Module,
    images: np.ndarray,
    tap: str,
    device: str,
    dtype: str,
    channels_last: bool,
    early_stop: bool,
) -> Callable[[], None]:
    """Returns a call that gives the pooled tap at t = 11 of uint8 `images`.

    The tap is read by a forward hook. With `early_stop` the hook raises, which ends
    the forward pass; without, the pass runs to its end, as most PyTorch code does.
    """
    network.eval()
    level_index, block = TAPS[tap]
    up_block = network.up_blocks[level_index]
    if len(getattr(up_block, "attentions", ())):
        module = up_block.attentions[block]
    else:
        module = up_block.resnets[block]
    level = alpha_bars(device)[10]
    images = _place(images, device, channels_last)
    found = []

    def hook(module, inputs, output):
        found[:] = [output.float().mean(dim=(2, 3))]
        if early_stop:
            raise _Reached

    @torch.no_grad()
    def run():
        x0 = _to_float(images)
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        handle = module.register_forward_hook(hook)
        with contextlib.suppress(_Reached), _precision(device, dtype):
            network(x_t, 10)
        handle.remove()
        _synchronise(device)

    return run
