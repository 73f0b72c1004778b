"""The published code's UNets as ours: from a golden file to network and parameters."""

import jax
import jax.numpy as jnp

from ddae_jax.models.unet import UNet
from ddae_jax.weights import torch_layout
from ddae_jax.weights import unet as unet_weights
from tests.tools import golden_values


def network_of(kwargs: dict) -> UNet:
    """Our network for the arguments of the published class."""
    return UNet(
        image_channels=kwargs["image_shape"][0],
        channels=kwargs["n_channels"],
        channel_multipliers=tuple(kwargs["ch_mults"]),
        attention=tuple(kwargs["is_attn"]),
        blocks=kwargs["n_blocks"],
        dropout=kwargs["dropout"],
        residual_resampling=kwargs.get("use_res_for_updown", False),
        head_channels=kwargs.get("attn_channels_per_head"),
        augment_channels=kwargs.get("augment_dim", 0),
    )


def params_of(network: UNet, meta: dict, image_shape: tuple[int, ...]) -> dict:
    """Our parameters for the tensors that golden file `meta` describes."""
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.ones(1)
    )["params"]
    return torch_layout.from_torch(
        golden_values.state(meta), unet_weights.names(network), shapes
    )
