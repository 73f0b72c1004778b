"""DDAE's UNet: names of the official PyTorch checkpoints."""

import re
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.unet import UNet
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer, norm


def _residual(torch_name, path, has_shortcut):
    entries = {
        **norm(f"{torch_name}.norm1", (*path, "norm1")),
        **layer(f"{torch_name}.conv1", (*path, "conv1"), "conv"),
        **norm(f"{torch_name}.norm2", (*path, "norm2")),
        # index 0 of conv2 is the dropout, of time_emb the SiLU
        **layer(f"{torch_name}.conv2.1", (*path, "conv2"), "conv"),
        **layer(f"{torch_name}.time_emb.1", (*path, "embedding"), "linear"),
    }
    if has_shortcut:
        entries |= layer(f"{torch_name}.shortcut", (*path, "shortcut"), "conv")
    return entries


def _attention(torch_name, path):
    return {
        **norm(f"{torch_name}.norm", (*path, "norm")),
        **layer(f"{torch_name}.projection", (*path, "projection"), "linear"),
        **layer(f"{torch_name}.output", (*path, "output"), "linear"),
    }


def names(network: UNet) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    widths = [network.channels * factor for factor in network.channel_multipliers]
    levels = len(widths)
    entries = {
        **layer("image_proj", ("image",), "conv"),
        **layer("time_emb.lin1", ("time", "linear1"), "linear"),
        **layer("time_emb.lin2", ("time", "linear2"), "linear"),
    }
    if network.augment_channels:
        entries["time_emb.aug_emb.weight"] = Entry(
            ("time", "augment", "kernel"), "linear"
        )

    def block(torch_name, path, level, in_channels):
        shortcut = in_channels != widths[level]
        found = _residual(f"{torch_name}.res", (path, "residual"), shortcut)
        if network.attention[level]:
            found |= _attention(f"{torch_name}.attn", (path, "attention"))
        return found

    def resample(torch_name, path):
        if network.residual_resampling:
            return _residual(f"{torch_name}.op", (path,), False)
        return layer(f"{torch_name}.conv", (path,), "conv")

    index, channels, skips = 0, network.channels, [network.channels]
    for level in range(levels):
        for i in range(network.blocks):
            entries |= block(f"down.{index}", f"down_{level}_{i}", level, channels)
            channels = widths[level]
            skips.append(channels)
            index += 1
        if level < levels - 1:
            entries |= resample(f"down.{index}", f"down_{level}_resample")
            skips.append(channels)
            index += 1

    entries |= _residual("middle.res1", ("middle_1",), False)
    entries |= _attention("middle.attn", ("middle_attention",))
    entries |= _residual("middle.res2", ("middle_2",), False)

    index, number = 0, 0
    for level in reversed(range(levels)):
        for _ in range(network.blocks + 1):
            number += 1
            width = channels + skips.pop()
            entries |= block(f"up.{index}", f"out_{number}", level, width)
            channels = widths[level]
            index += 1
        if level > 0:
            entries |= resample(f"up.{index}", f"up_{level}_resample")
            index += 1
    return entries | norm("norm", ("norm",)) | layer("final", ("final",), "conv")


def published_class(network: UNet, image_shape: tuple[int, int, int]) -> PublishedClass:
    """DDAE's own class for `network`, on images of (height, width, channels)."""
    height, width, channels = image_shape
    return PublishedClass(
        "github.com/FutureXiang/ddae, model/unet.py",
        "UNet",
        {
            "image_shape": [channels, height, width],
            "n_channels": network.channels,
            "ch_mults": list(network.channel_multipliers),
            "is_attn": list(network.attention),
            "attn_channels_per_head": network.head_channels,
            "dropout": network.dropout,
            "n_blocks": network.blocks,
            "use_res_for_updown": network.residual_resampling,
            "augment_dim": network.augment_channels,
        },
    )


def network_from_state(
    state: Mapping[str, np.ndarray], head_channels: int | None = None
) -> UNet:
    """Infers the UNet from the names and shapes of its tensors.

    Args:
      state: torch name -> array.
      head_channels: width of an attention head: no tensor shows it; None is one head.

    Raises:
      UserError: the tensors are not those of DDAE's UNet.
    """
    if "image_proj.weight" not in state or "time_emb.lin1.weight" not in state:
        raise UserError("no DDAE UNet: image_proj or time_emb.lin1 is missing")
    channels, image_channels = state["image_proj.weight"].shape[:2]
    down = sorted(
        {int(found[1]) for name in state if (found := re.match(r"down\.(\d+)\.", name))}
    )
    widths, attention, blocks = [], [], []
    residual_resampling = any(".op." in name for name in state)
    new_level = True
    for i in down:
        if f"down.{i}.res.conv1.weight" not in state:
            new_level = True
            continue
        if new_level:
            widths.append(state[f"down.{i}.res.conv1.weight"].shape[0])
            attention.append(f"down.{i}.attn.norm.weight" in state)
            blocks.append(0)
        new_level = False
        blocks[-1] += 1
    if not blocks or len(set(blocks)) != 1:
        raise UserError(f"no DDAE UNet: levels have {blocks} blocks on the way down")
    augment = state.get("time_emb.aug_emb.weight")
    return UNet(
        image_channels=int(image_channels),
        channels=int(channels),
        channel_multipliers=tuple(int(width // channels) for width in widths),
        attention=tuple(attention),
        blocks=blocks[0],
        residual_resampling=residual_resampling,
        head_channels=head_channels,
        augment_channels=0 if augment is None else int(augment.shape[1]),
    )
