"""EDM2's UNet: names of FutureXiang/edm2's checkpoints.

The checkpoints are of the process's module EDM: the network below nn_model., and next
to it reweight_mlp., the uncertainty of the loss. Readers strip nn_model.
"""

import re
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.weights.torch_layout import Entry, PublishedClass


def _fourier(torch_name, path):
    return {
        f"{torch_name}.fourier.{leaf}": Entry((path, "fourier", leaf))
        for leaf in ("frequencies", "phases")
    }


def _block(torch_name, path, has_shortcut, attention):
    parts = [
        ("res.linear", ("embedding",), "linear"),
        ("res.conv1", ("conv1",), "conv"),
        # index 0 of conv2 is the dropout
        ("res.conv2.1", ("conv2",), "conv"),
    ]
    if has_shortcut:
        parts.append(("res.shortcut", ("shortcut",), "conv_as_linear"))
    if attention:
        parts += [
            (f"attn.{name}", ("attention", name), "conv_as_linear")
            for name in ("projection", "output")
        ]
    return {
        f"{torch_name}.{name}.weight": Entry((path, *inside, "kernel"), layout)
        for name, inside, layout in parts
    }


def names(network: EDM2UNet) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    widths = [network.channels * factor for factor in network.channel_multipliers]
    levels = len(widths)
    entries = {
        "image_proj.weight": Entry(("image", "kernel"), "conv"),
        # index 0 of final is the normalisation, 1 the SiLU
        "final.2.weight": Entry(("final", "kernel"), "conv"),
        **_fourier("embedding", "embedding"),
    }
    for name in ("linear1", "linear2"):
        path = ("embedding", name, "kernel")
        entries[f"embedding.{name}.weight"] = Entry(path, "linear")
    if network.uncertainty:
        entries |= _fourier("reweight_mlp", "loss_uncertainty")
        path = ("loss_uncertainty", "linear", "kernel")
        entries["reweight_mlp.linear.weight"] = Entry(path, "linear")

    index, channels, skips = 0, network.channels, [network.channels]
    for level in range(levels):
        for i in range(network.blocks):
            entries |= _block(
                f"down.{index}",
                f"down_{level}_{i}",
                channels != widths[level],
                network.attention[level],
            )
            channels = widths[level]
            skips.append(channels)
            index += 1
        if level < levels - 1:
            path = f"down_{level}_resample"
            entries |= _block(f"down.{index}", path, False, False)
            skips.append(channels)
            index += 1

    entries |= _block("middle1", "middle_1", False, True)
    entries |= _block("middle2", "middle_2", False, False)

    index = 0
    for level in reversed(range(levels)):
        for _ in range(network.blocks + 1):
            entries |= _block(
                f"up.{index}",
                f"out_{index + 1}",
                channels + skips.pop() != widths[level],
                network.attention[level],
            )
            channels = widths[level]
            index += 1
        if level > 0:
            entries |= _block(f"up.{index}", f"out_{index + 1}", False, False)
            index += 1
    return entries


def _up_levels(state):
    """Width, attention and number of blocks of each level of the up path, in order.

    Every block there takes a skip connection, so its first convolution is wider in
    than out, except the block that doubles the resolution and ends the level.
    """
    found = [re.match(r"up\.(\d+)\.res\.conv1\.weight", name) for name in state]
    count = len([name for name in found if name])
    levels, new_level = [], True
    for i in range(count):
        shape = state[f"up.{i}.res.conv1.weight"].shape
        if shape[0] == shape[1]:
            new_level = True
            continue
        if new_level:
            levels.append([shape[0], f"up.{i}.attn.output.weight" in state, 0])
        levels[-1][2] += 1
        new_level = False
    return levels


def in_module(state: Mapping[str, np.ndarray], network: EDM2UNet) -> dict:
    """Returns `state` under the names of the published module that holds all of it.

    That is the network's class, or where there is an uncertainty, module EDM.
    """
    if not network.uncertainty:
        return dict(state)
    return {
        name if name.startswith("reweight_mlp.") else f"nn_model.{name}": array
        for name, array in state.items()
    }


def published_class(
    network: EDM2UNet, image_shape: tuple[int, int, int]
) -> PublishedClass:
    """The published class for `network`, on images of (height, width, channels).

    Where there is an uncertainty, its module EDM is what loads, around that class.
    """
    height, width, channels = image_shape
    return PublishedClass(
        "github.com/FutureXiang/edm2, model/"
        + ("unetE.py" if network.weight_normalization else "unetC.py")
        + (" and EDM.py; `diffusion` as in config/" if network.uncertainty else ""),
        "UNetE" if network.weight_normalization else "UNetC",
        {
            "image_shape": [channels, height, width],
            "n_channels": network.channels,
            "ch_mults": list(network.channel_multipliers),
            "is_attn": list(network.attention),
            "attn_channels_per_head": network.head_channels,
            "dropout": network.dropout,
            "n_blocks": network.blocks + 1,
        },
        "EDM({}, **diffusion, device='cpu')" if network.uncertainty else "{}",
    )


def network_from_state(
    state: Mapping[str, np.ndarray],
    weight_normalization: bool,
    head_channels: int | None = None,
) -> EDM2UNet:
    """Infers EDM2's UNet from the names and shapes of its tensors.

    Args:
      state: torch name -> array.
      weight_normalization: False for configuration C, True for E: both have the same
        tensors.
      head_channels: width of an attention head: no tensor shows it; None is one head.

    Raises:
      UserError: the tensors are not those of EDM2's UNet.
    """
    needed = ("image_proj.weight", "embedding.fourier.phases", "up.0.res.conv1.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        raise UserError(f"no EDM2 UNet: {', '.join(missing)} missing")
    channels, inputs = state["image_proj.weight"].shape[:2]
    levels = _up_levels(state)[::-1]
    counts = {count for _, _, count in levels}
    if len(counts) != 1 or min(counts) < 2:
        raise UserError(f"no EDM2 UNet: levels have {counts} blocks on the way up")
    return EDM2UNet(
        image_channels=int(inputs) - 1,
        channels=int(channels),
        channel_multipliers=tuple(int(width // channels) for width, _, _ in levels),
        attention=tuple(attention for _, attention, _ in levels),
        blocks=counts.pop() - 1,
        weight_normalization=weight_normalization,
        uncertainty="reweight_mlp.linear.weight" in state,
        head_channels=head_channels,
    )
