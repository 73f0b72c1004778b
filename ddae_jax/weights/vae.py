"""Stable Diffusion's autoencoder: tensor names of diffusers' `.safetensors` files."""

import re
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer, norm

# Files written before diffusers 0.16 name the attention's tensors after their role.
_OLD_NAMES = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_OLD_NAME = re.compile(
    rf"(?<=\.attentions\.0\.)({'|'.join(_OLD_NAMES)})(?=\.(weight|bias)$)"
)


def current_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `state` with the attention's old tensor names replaced by today's.

    Raises:
      UserError: a tensor is there under both names.
    """
    renamed = {}
    for name, array in state.items():
        new = _OLD_NAME.sub(lambda found: _OLD_NAMES[found[1]], name)
        if new != name and new in state:
            raise UserError(f"tensor {new} is there twice, also as {name}")
        renamed[new] = array
    return renamed


def _residual(torch_name, path, in_channels, channels):
    entries = {
        **norm(f"{torch_name}.norm1", (*path, "norm1")),
        **layer(f"{torch_name}.conv1", (*path, "conv1"), "conv"),
        **norm(f"{torch_name}.norm2", (*path, "norm2")),
        **layer(f"{torch_name}.conv2", (*path, "conv2"), "conv"),
    }
    if in_channels != channels:
        entries |= layer(f"{torch_name}.conv_shortcut", (*path, "shortcut"), "conv")
    return entries


def _middle(torch_name, path, width):
    attention = f"{torch_name}.attentions.0"
    return {
        **_residual(f"{torch_name}.resnets.0", (*path, "residual_1"), width, width),
        **norm(f"{attention}.group_norm", (*path, "attention", "norm")),
        **layer(f"{attention}.to_q", (*path, "attention", "query"), "linear"),
        **layer(f"{attention}.to_k", (*path, "attention", "key"), "linear"),
        **layer(f"{attention}.to_v", (*path, "attention", "value"), "linear"),
        **layer(f"{attention}.to_out.0", (*path, "attention", "output"), "linear"),
        **_residual(f"{torch_name}.resnets.1", (*path, "residual_2"), width, width),
    }


def names(network: AutoencoderKL) -> dict[str, Entry]:
    """Maps every tensor name of diffusers' AutoencoderKL to our parameters."""
    widths, last = network.widths, len(network.widths) - 1
    entries = {
        **layer("quant_conv", ("quantise",), "conv"),
        **layer("post_quant_conv", ("unquantise",), "conv"),
    }
    for side in ("encoder", "decoder"):
        entries |= {
            **layer(f"{side}.conv_in", (side, "conv_in"), "conv"),
            **_middle(f"{side}.mid_block", (side, "middle"), widths[-1]),
            **norm(f"{side}.conv_norm_out", (side, "norm")),
            **layer(f"{side}.conv_out", (side, "conv_out"), "conv"),
        }
    for side, theirs, ours, sampler, side_widths, count in [
        ("encoder", "down_blocks", "down", "downsamplers", widths, network.blocks),
        ("decoder", "up_blocks", "up", "upsamplers", widths[::-1], network.blocks + 1),
    ]:
        channels = side_widths[0]
        for level, width in enumerate(side_widths):
            block = f"{side}.{theirs}.{level}"
            for i in range(count):
                path = (side, f"{ours}_{level}_{i}")
                entries |= _residual(f"{block}.resnets.{i}", path, channels, width)
                channels = width
            if level < last:
                path = (side, f"{ours}_{level}_resample")
                entries |= layer(f"{block}.{sampler}.0.conv", path, "conv")
    return entries


def published_class(
    network: AutoencoderKL, image_shape: tuple[int, int, int]
) -> PublishedClass:
    """diffusers' class for `network`, on images of (height, width, channels)."""
    levels = len(network.widths)
    return PublishedClass(
        "the package diffusers",
        "AutoencoderKL",
        {
            "in_channels": network.image_channels,
            "out_channels": network.image_channels,
            "down_block_types": levels * ["DownEncoderBlock2D"],
            "up_block_types": levels * ["UpDecoderBlock2D"],
            "block_out_channels": list(network.widths),
            "layers_per_block": network.blocks,
            "latent_channels": network.latent_channels,
            "norm_num_groups": network.groups,
            "sample_size": image_shape[0],
            "scaling_factor": network.scaling_factor,
        },
    )


def network_from_state(
    state: Mapping[str, np.ndarray],
    groups: int = 32,
    scaling_factor: float = 0.18215,
) -> AutoencoderKL:
    """Infers the autoencoder from the names and shapes of its tensors.

    Args:
      state: torch name -> array, under old or current names.
      groups: of the normalisations: no tensor shows it.
      scaling_factor: of the latents: no tensor shows it.

    Raises:
      UserError: the tensors are not those of a diffusers AutoencoderKL.
    """
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight"):
        if name not in state:
            raise UserError(f"no diffusers AutoencoderKL: {name} is missing")
    widths, blocks = [], 0
    while (
        first := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight"
    ) in state:
        widths.append(int(state[first].shape[0]))
    while f"encoder.down_blocks.0.resnets.{blocks}.conv1.weight" in state:
        blocks += 1
    if not blocks:
        raise UserError("no diffusers AutoencoderKL: it has no encoder.down_blocks")
    return AutoencoderKL(
        image_channels=int(state["encoder.conv_in.weight"].shape[1]),
        latent_channels=int(state["decoder.conv_in.weight"].shape[1]),
        widths=tuple(widths),
        blocks=blocks,
        groups=groups,
        scaling_factor=scaling_factor,
    )
