"""DiT-B/2 in PyTorch: diffusers' DiTTransformer2DModel of the same size."""

import contextlib
from collections.abc import Callable

import diffusers
import torch

# diffusers gives every block its own embedding of time and class, so that it has more
# parameters; the blocks themselves are those of DiT-B/2.
SIZE = {"num_attention_heads": 12, "attention_head_dim": 64, "num_layers": 12}


def build(device: str) -> diffusers.DiTTransformer2DModel:
    """12 blocks, 768 wide, patches of 2, learned variance, 1000 classes and none."""
    network = diffusers.DiTTransformer2DModel(
        **SIZE, in_channels=4, out_channels=8, sample_size=32, patch_size=2
    )
    return network.to(device)


def _precision(device: str, dtype: str):
    if dtype == "bfloat16":
        return torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext()


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


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
        with _precision(device, dtype):
            network(x0, time, labels)
        _finish(device)

    return run


def trainer(
    network: torch.nn.Module, batch: int, device: str, dtype: str
) -> Callable[[], None]:
    """Returns a call that does one optimiser step, with clipping and EMA."""
    network.train()
    parameters = list(network.parameters())
    ema = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    x0, time, labels = _inputs(batch, device)
    levels = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)

    def run():
        noise = torch.randn_like(x0)
        level = levels[time][:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        with _precision(device, dtype):
            output = network(x_t, time, labels).sample
        loss = torch.nn.functional.mse_loss(output[:, :4].float(), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - 0.9999)
        _finish(device)

    return run
