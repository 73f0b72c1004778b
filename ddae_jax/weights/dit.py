"""DiT: names of the official PyTorch checkpoints (facebookresearch/DiT)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.dit import SIZES, DiT
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer
from ddae_jax.weights.vision_transformer import (
    blocks_in,
    heads_of,
    require,
    square_side,
)


def shared_names() -> dict[str, Entry]:
    """Entries outside the blocks, the same in DiT and LightningDiT."""
    return {
        "pos_embed": Entry(("positions", "table")),
        **layer("x_embedder.proj", ("patches",), "conv"),
        **layer("t_embedder.mlp.0", ("time", "linear1"), "linear"),
        **layer("t_embedder.mlp.2", ("time", "linear2"), "linear"),
        "y_embedder.embedding_table.weight": Entry(("label", "table", "embedding")),
        **layer("final_layer.linear", ("final", "linear"), "linear"),
        # index 0 of adaLN_modulation is the SiLU
        **layer("final_layer.adaLN_modulation.1", ("final", "modulation"), "linear"),
    }


def shared_block_names(i: int) -> dict[str, Entry]:
    """Entries of block `i`, the same in DiT and LightningDiT."""
    name, path = f"blocks.{i}", f"block_{i}"
    return {
        **layer(f"{name}.attn.qkv", (path, "attention", "projection"), "linear"),
        **layer(f"{name}.attn.proj", (path, "attention", "output"), "linear"),
        **layer(f"{name}.adaLN_modulation.1", (path, "modulation"), "linear"),
    }


def names(network: DiT) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    entries = shared_names()
    for i in range(network.depth):
        entries |= shared_block_names(i)
        entries |= layer(
            f"blocks.{i}.mlp.fc1", (f"block_{i}", "mlp", "linear1"), "linear"
        )
        entries |= layer(
            f"blocks.{i}.mlp.fc2", (f"block_{i}", "mlp", "linear2"), "linear"
        )
    return entries


def shared_arguments(network: Any, image_shape: tuple[int, int, int]) -> dict:
    """Arguments of the published constructors of DiT and LightningDiT."""
    return {
        "input_size": image_shape[0],
        "patch_size": network.patch_size,
        "in_channels": image_shape[2],
        "hidden_size": network.hidden_size,
        "depth": network.depth,
        "num_heads": network.heads,
        "num_classes": network.num_classes,
    }


def published_class(network: DiT, image_shape: tuple[int, int, int]) -> PublishedClass:
    """DiT's own class for `network`, on images of (height, width, channels)."""
    return PublishedClass(
        "github.com/facebookresearch/DiT, models.py",
        "DiT",
        {
            **shared_arguments(network, image_shape),
            "mlp_ratio": network.mlp_ratio,
            "learn_sigma": network.learned_variance,
        },
    )


def shared_fields(
    state: Mapping[str, np.ndarray], sizes: Mapping[str, Mapping], heads: int | None
) -> dict:
    """Fields that DiT and LightningDiT share, from the names and shapes of tensors.

    Raises:
      UserError: a tensor is missing, or `heads` is None and the size not among `sizes`.
    """
    hidden_size, image_channels, patch_size, _ = require(
        state, "x_embedder.proj.weight"
    ).shape
    depth = blocks_in(state, "blocks")
    rows = len(require(state, "y_embedder.embedding_table.weight"))
    return {
        "image_channels": int(image_channels),
        "patch_size": int(patch_size),
        "hidden_size": int(hidden_size),
        "depth": depth,
        "heads": heads_of(sizes, int(hidden_size), depth, heads),
        "num_classes": rows - 1,
    }


def network_from_state(
    state: Mapping[str, np.ndarray], heads: int | None = None
) -> DiT:
    """Infers DiT from the names and shapes of its tensors.

    Args:
      state: torch name -> array; the last row of the label table is the null class.
      heads: attention heads: no tensor shows them; None takes the published number
        where width and depth are those of a published size.

    Raises:
      UserError: the tensors are not those of a DiT, or `heads` is needed.
    """
    fields = shared_fields(state, SIZES, heads)
    hidden = len(require(state, "blocks.0.mlp.fc1.weight"))
    outputs = len(require(state, "final_layer.linear.weight"))
    channels = outputs // fields["patch_size"] ** 2
    if channels not in (fields["image_channels"], 2 * fields["image_channels"]):
        raise UserError(
            f"no DiT: {channels} output channels for {fields['image_channels']} inputs"
        )
    return DiT(
        **fields,
        mlp_ratio=hidden / fields["hidden_size"],
        learned_variance=channels == 2 * fields["image_channels"],
    )


def image_shape(state: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Height, width and channels of the (square) images that the weights are for."""
    _, channels, patch_size, _ = require(state, "x_embedder.proj.weight").shape
    side = square_side(require(state, "pos_embed").shape[1]) * int(patch_size)
    return side, side, int(channels)
