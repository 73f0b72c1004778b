"""The published code's small network under DDPM and EDM, and what it computes."""

import functools

import jax
import numpy as np

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.models.unet import UNet
from ddae_jax.weights import torch_layout
from ddae_jax.weights import unet as unet_weights
from tests.tools import golden_values

NETWORK = UNet(
    image_channels=3,
    channels=32,
    channel_multipliers=(1, 2),
    attention=(False, True),
    blocks=1,
    dropout=0.0,
)
TAPS = ["out_1", "out_2", "out_3", "out_4"]


@functools.cache
def official(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns parameters and arrays of golden file `name`, with images in NHWC."""
    meta, arrays = golden_values.load(name)
    arrays = {
        key: golden_values.nhwc(value)
        if value.ndim >= 4 and value.shape[-1] > 1
        else value
        for key, value in arrays.items()
    }
    shape = arrays["in/x_T"].shape[1:]
    shapes = jax.eval_shape(
        lambda key: Denoiser(NETWORK, DDPM()).init(key, shape), jax.random.key(0)
    )
    params = torch_layout.from_torch(
        golden_values.state(meta), unet_weights.names(NETWORK), shapes
    )
    return params, arrays
