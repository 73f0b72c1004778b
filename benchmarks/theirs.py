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


def synchronise(device: str) -> None:
    """Waits for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def precision(device: str, dtype: str):
    """Autocast where `dtype` is bfloat16."""
    if dtype == "bfloat16":
        return torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext()


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Maps uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


def place(images: np.ndarray, device: str, channels_last: bool) -> torch.Tensor:
    """uint8 NHWC images on the device as NCHW, in the memory format asked for."""
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
    steps: int = 1,
) -> Callable[[], None]:
    """Returns a call that does `steps` optimiser steps on uint8 NHWC `images`."""
    forward = torch.compile(network) if compiled else network
    levels = alpha_bars(device)
    images = place(images, device, channels_last)

    def loss():
        x0 = to_float(images)
        time = torch.randint(0, 1000, (len(x0),), device=device)
        noise = torch.randn_like(x0)
        level = levels[time][:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        with precision(device, dtype):
            output = forward(x_t, time, return_dict=False)[0]
        return torch.nn.functional.mse_loss(output.float(), noise)

    return optimise(network, loss, device, 4e-4, steps)


def optimise(
    network: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    device: str,
    learning_rate: float,
    steps: int,
) -> Callable[[], None]:
    """Returns a call that does `steps` steps of Adam, with clipping and EMA."""
    network.train()
    parameters = list(network.parameters())
    ema = [parameter.detach().clone() for parameter in parameters]
    fused = device == "cuda"
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=fused)

    def run():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - 0.9999)
        synchronise(device)

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
    # The network is given tensors: it would be compiled anew for every number.
    moments = [torch.tensor(time, device=device) for time in times]

    @torch.no_grad()
    def run():
        x = torch.randn(batch, 3, 32, 32, device=device)
        steps = zip(times, [*times[1:], None], moments, strict=True)
        for time, after, moment in steps:
            level = levels[time]
            next_level = levels[after] if after is not None else torch.ones_like(level)
            with precision(device, dtype):
                output = forward(x, moment, return_dict=False)[0].float()
            x0 = ((x - (1 - level).sqrt() * output) / level.sqrt()).clamp(-1, 1)
            direction = (x - level.sqrt() * x0) / (1 - level).sqrt()
            x = next_level.sqrt() * x0 + (1 - next_level).sqrt() * direction
        synchronise(device)

    return run


def cut(network: torch.nn.Module, tap: str) -> torch.nn.Module:
    """Removes all layers after the tap, so that the network returns it."""
    level, block = TAPS[tap]
    last = network.up_blocks[level]
    network.up_blocks = network.up_blocks[: level + 1]
    last.resnets = last.resnets[: block + 1]
    if len(getattr(last, "attentions", ())):
        last.attentions = last.attentions[: block + 1]
    last.upsamplers = None
    network.conv_norm_out = torch.nn.Identity()
    network.conv_act = torch.nn.Identity()
    network.conv_out = torch.nn.Identity()
    return network


def compiled_extractor(
    network: torch.nn.Module,
    images: np.ndarray,
    tap: str,
    device: str,
    dtype: str,
    channels_last: bool,
) -> Callable[[], None]:
    """As `extractor` with early stop, but compiled: the network is `cut` at the tap."""
    forward = torch.compile(cut(network.eval(), tap))
    level = alpha_bars(device)[10]
    images = place(images, device, channels_last)
    moment = torch.tensor(10, device=device)

    @torch.no_grad()
    def run():
        x0 = to_float(images)
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        with precision(device, dtype):
            output = forward(x_t, moment, return_dict=False)[0]
        output.float().mean(dim=(2, 3))
        synchronise(device)

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
    images = place(images, device, channels_last)
    found = []

    def hook(module, inputs, output):
        found[:] = [output.float().mean(dim=(2, 3))]
        if early_stop:
            raise _Reached

    @torch.no_grad()
    def run():
        x0 = to_float(images)
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        handle = module.register_forward_hook(hook)
        with contextlib.suppress(_Reached), precision(device, dtype):
            network(x_t, 10)
        handle.remove()
        synchronise(device)

    return run
