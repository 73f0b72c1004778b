"""Inception's features of FID: ours beside the same network in PyTorch."""

import argparse
import os

import jax
import numpy as np
import torch

from benchmarks import timing, torch_inception
from ddae_jax.models.inception_input import inception_outputs
from ddae_jax.runtime import compiler
from ddae_jax.weights.inception import params_from_torch

WANTED = 0.9  # of PyTorch's images/s, on a CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--images", type=int, default=8, help="a batch of Inception's")
    parser.add_argument("--image_size", type=int, default=32, help="before resizing")


def run(arguments: argparse.Namespace) -> dict:
    """Times resizing and network on uint8 images, turn by turn, with equal weights.

    Returns:
      settings, the largest relative difference of the features, and images/s.
    """
    on_cpu = jax.default_backend() == "cpu"
    device = "cpu" if on_cpu else "cuda"
    network = torch_inception.build()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    params = jax.device_put(params_from_torch(state))
    network.to(device)
    shape = (arguments.images, arguments.image_size, arguments.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    at_once = 1 if on_cpu else None  # as the task fid does

    @jax.jit(compiler_options=compiler.compiler_options())
    def extract(params, images):
        return inception_outputs(params, images, "pytorch", at_once).features

    placed = jax.device_put(images)
    of_torch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)

    def ours():
        return np.asarray(extract(params, placed))

    @torch.inference_mode()
    def theirs():
        return network(of_torch.float() / 255).cpu().numpy()

    one, other = ours(), theirs()
    difference = float(np.abs(one - other).max() / np.abs(other).max())
    print(f"largest difference of the features {difference:.1e} of the largest")
    seconds = timing.alternate({"ours": ours, "torch": theirs}, arguments.rounds)
    result = timing.summarise(seconds, arguments.images)
    timing.show("inception", result)
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "images": arguments.images,
        "image_size": arguments.image_size,
        "images_at_once": at_once,
        "difference": difference,
        "wanted_ratio": WANTED,
        "result": result,
    }
