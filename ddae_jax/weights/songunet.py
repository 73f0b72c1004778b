"""SongUNet: names of NVlabs/edm's checkpoints (EDMPrecond, hence the prefix model.)."""

import re
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.songunet import SongUNet
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer, norm

_FILTER = ".resample_filter"


def _block(torch_name, path, has_shortcut, attention):
    entries = {
        **norm(f"{torch_name}.norm0", (path, "norm1")),
        **layer(f"{torch_name}.conv0", (path, "conv1"), "conv"),
        **layer(f"{torch_name}.affine", (path, "embedding"), "linear"),
        **norm(f"{torch_name}.norm1", (path, "norm2")),
        **layer(f"{torch_name}.conv1", (path, "conv2"), "conv"),
    }
    if has_shortcut:
        entries |= layer(f"{torch_name}.skip", (path, "shortcut"), "conv_as_linear")
    if attention:
        inside = (path, "attention")
        entries |= {
            **norm(f"{torch_name}.norm2", (*inside, "norm")),
            **layer(f"{torch_name}.qkv", (*inside, "projection"), "conv_as_linear"),
            **layer(f"{torch_name}.proj", (*inside, "output"), "conv_as_linear"),
        }
    return entries


def _embedding(network):
    entries = {
        **layer("model.map_layer0", ("embedding", "linear1"), "linear"),
        **layer("model.map_layer1", ("embedding", "linear2"), "linear"),
    }
    if network.fourier:
        path = ("embedding", "fourier", "frequencies")
        entries["model.map_noise.freqs"] = Entry(path)
    if network.num_classes:
        entries |= layer("model.map_label", ("embedding", "labels"), "linear")
    if network.augment_channels:
        entries["model.map_augment.weight"] = Entry(
            ("embedding", "augment", "kernel"), "linear"
        )
    return entries


def names(network: SongUNet) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    widths = [network.channels * factor for factor in network.channel_multipliers]
    levels = network.level_names()
    entries = _embedding(network)

    def place(side, level, part):
        return f"model.{side}.{levels[level]}_{part}", f"{side}_{levels[level]}_{part}"

    channels, skips = network.channels, [network.channels]
    for level in range(len(levels)):
        if level == 0:
            torch_name, path = place("enc", level, "conv")
            entries |= layer(torch_name, (path,), "conv")
        else:
            entries |= _block(*place("enc", level, "down"), True, False)
            skips.append(channels)
            if network.residual_encoder:
                torch_name, path = place("enc", level, "aux_residual")
                entries |= layer(torch_name, (path, "conv"), "conv")
        for i in range(network.blocks):
            entries |= _block(
                *place("enc", level, f"block{i}"),
                channels != widths[level],
                network.attention[level],
            )
            channels = widths[level]
            skips.append(channels)

    for level in reversed(range(len(levels))):
        if level == len(levels) - 1:
            entries |= _block(*place("dec", level, "in0"), False, True)
            entries |= _block(*place("dec", level, "in1"), False, False)
        else:
            entries |= _block(*place("dec", level, "up"), True, False)
        for i in range(network.blocks + 1):
            entries |= _block(
                *place("dec", level, f"block{i}"),
                channels + skips.pop() != widths[level],
                network.attention[level] and i == network.blocks,
            )
            channels = widths[level]

    torch_name, path = place("dec", 0, "aux_norm")
    entries |= norm(torch_name, (path,))
    torch_name, path = place("dec", 0, "aux_conv")
    return entries | layer(torch_name, (path,), "conv")


def _filter_in(state):
    """The resampling filter's taps along one axis, where the state holds it."""
    for name, array in state.items():
        if name.endswith(_FILTER):
            row = np.asarray(array, np.float64)[0, 0, 0]
            return tuple(round(float(tap)) for tap in row / row.min())
    return None


# Submodules that resample hold the filter, by the end of their names.
_RESAMPLING = ("_down.conv0", "_down.skip", "_up.conv0", "_up.skip", "_aux_residual")


def with_filters(
    state: Mapping[str, np.ndarray], network: SongUNet
) -> dict[str, np.ndarray]:
    """Returns `state` with the resampling filters: `without_filters` undone."""
    taps = np.asarray(network.resample_filter, np.float32)
    square = (np.outer(taps, taps) / np.square(taps.sum()))[None, None]
    modules = {name.rpartition(".")[0] for name in state}
    return dict(state) | {
        name + _FILTER: square.copy()
        for name in sorted(modules)
        if name.endswith(_RESAMPLING)
    }


def without_filters(
    state: Mapping[str, np.ndarray], network: SongUNet
) -> dict[str, np.ndarray]:
    """Returns `state` without the resampling filters, which are not parameters.

    Raises:
      UserError: a filter in `state` is not the network's.
    """
    taps = np.asarray(network.resample_filter, np.float64) / sum(
        network.resample_filter
    )
    expected = np.outer(taps, taps)[None, None]
    kept = {}
    for name, array in state.items():
        if not name.endswith(_FILTER):
            kept[name] = array
        elif array.shape != expected.shape or not np.allclose(array, expected):
            raise UserError(
                f"{name} is not the network's resample_filter {network.resample_filter}"
            )
    return kept


def published_class(
    network: SongUNet, image_shape: tuple[int, int, int]
) -> PublishedClass:
    """NVlabs' class for `network`, on images of (height, width, channels)."""
    side, _, channels = image_shape
    attention = [
        side >> level for level, present in enumerate(network.attention) if present
    ]
    return PublishedClass(
        "github.com/NVlabs/edm, training/networks.py",
        "EDMPrecond",
        {
            "img_resolution": side,
            "img_channels": channels,
            "label_dim": network.num_classes,
            "model_type": "SongUNet",
            "augment_dim": network.augment_channels,
            "model_channels": network.channels,
            "channel_mult": list(network.channel_multipliers),
            "num_blocks": network.blocks,
            "attn_resolutions": attention,
            "dropout": network.dropout,
            "embedding_type": "fourier" if network.fourier else "positional",
            "channel_mult_noise": network.noise_multiplier,
            "encoder_type": "residual" if network.residual_encoder else "standard",
            "decoder_type": "standard",
            "resample_filter": list(network.resample_filter),
        },
    )


def network_from_state(state: Mapping[str, np.ndarray]) -> SongUNet:
    """Infers SongUNet from the names and shapes of its tensors.

    The resampling filter is read from the state; where the state lacks it, it is that
    of the published pair: (1, 3, 3, 1) with the residual encoder, else (1, 1).

    Raises:
      UserError: the tensors are not those of SongUNet.
    """
    first = [
        found
        for name in state
        if (found := re.fullmatch(r"model\.enc\.(\d+)x\1_conv\.weight", name))
    ]
    if len(first) != 1 or "model.map_layer0.weight" not in state:
        raise UserError(
            "no SongUNet: model.enc.RxR_conv or model.map_layer0 is missing"
        )
    resolution = int(first[0][1])
    channels, image_channels = state[first[0][0]].shape[:2]
    widths, attention, blocks = [], [], []
    side = resolution
    while f"model.enc.{side}x{side}_block0.conv0.weight" in state:
        prefix = f"model.enc.{side}x{side}_block"
        widths.append(state[f"{prefix}0.conv0.weight"].shape[0])
        attention.append(f"{prefix}0.qkv.weight" in state)
        found = {
            re.match(r"\d+", name.removeprefix(prefix))[0]
            for name in state
            if name.startswith(prefix)
        }
        blocks.append(len(found))
        side //= 2
    if not blocks or len(set(blocks)) != 1:
        raise UserError(f"no SongUNet: levels have {blocks} blocks in the encoder")
    residual = any("_aux_residual." in name for name in state)
    published = (1, 3, 3, 1) if residual else (1, 1)
    label = state.get("model.map_label.weight")
    augment = state.get("model.map_augment.weight")
    return SongUNet(
        image_channels=int(image_channels),
        resolution=resolution,
        channels=int(channels),
        channel_multipliers=tuple(int(width // channels) for width in widths),
        attention=tuple(attention),
        blocks=blocks[0],
        fourier="model.map_noise.freqs" in state,
        noise_multiplier=int(state["model.map_layer0.weight"].shape[1] // channels),
        residual_encoder=residual,
        resample_filter=_filter_in(state) or published,
        num_classes=0 if label is None else int(label.shape[1]),
        augment_channels=0 if augment is None else int(augment.shape[1]),
    )
