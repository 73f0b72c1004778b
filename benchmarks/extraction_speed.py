"""Images/s of pooled features as the tasks extract them, at the published tap."""

import argparse
import os
import time

import jax
import numpy as np

from benchmarks import timing
from ddae_jax.data import source as data_source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.features import encode as features
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel

TAP, TIME = "out_6", 11.0  # DDPM's best of the published probes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--extraction_images", type=int, default=64)
    parser.add_argument("--extraction_batch", type=int, default=32)
    parser.add_argument(
        "--extraction_channels", type=int, default=128, help="128: the 35.7 M UNet"
    )


def run(arguments: argparse.Namespace) -> dict:
    """`measure` as the command line says."""
    return measure(
        arguments.extraction_channels,
        arguments.extraction_images,
        arguments.extraction_batch,
        arguments.rounds,
    )


def measure(
    channels: int = 128, images: int = 64, batch_size: int = 32, rounds: int = 7
) -> dict:
    """Times `features.encode_set` on random 32x32 images: at the published tap, and at
    the deepest, which takes nearly the whole network.

    Returns:
      settings, and images/s of both; reading, noise and copying to the host included.
    """
    denoiser = Denoiser(UNet(channels=channels), DDPM())
    params = jax.jit(lambda key: denoiser.init(key, (32, 32, 3)))(jax.random.key(0))
    mesh = parallel.make_mesh()
    params = jax.device_put(params, parallel.replicated(mesh))
    source = random_images(images)
    deepest = list(denoiser.network.tap_paths())[-1]

    def extract(tap):
        encode = features.Encoder(denoiser, (tap,))
        key = jax.random.key(1)
        features.encode_set(encode, params, mesh, source, [TIME], key, batch_size)

    started = time.perf_counter()
    extract(TAP)
    first = time.perf_counter() - started
    sides = {"ours": lambda: extract(TAP), "to the end": lambda: extract(deepest)}
    result = timing.summarise(timing.alternate(sides, rounds), images)
    timing.show("extract", result)
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "parameters": denoiser.parameter_count((32, 32, 3)),
        "tap": TAP,
        "deepest_tap": deepest,
        "images": images,
        "batch_size": batch_size,
        "seconds_with_compilation": first,
        "result": result,
    }


def random_images(count: int) -> data_source.Source:
    """`count` random 32x32 colour images of ten classes, in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    names = [str(label) for label in range(10)]
    return data_source.from_arrays(
        "random", "train", pixels, np.arange(count) % 10, names
    )
