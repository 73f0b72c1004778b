"""U-ViT: names of the official PyTorch checkpoints (baofff/U-ViT)."""

from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.uvit import SIZES, UViT
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer, norm
from ddae_jax.weights.vision_transformer import (
    blocks_in,
    heads_of,
    require,
    square_side,
)


def _block(torch_name, path, network, has_skip):
    entries = {
        **norm(f"{torch_name}.norm1", (path, "norm1")),
        **layer(f"{torch_name}.attn.qkv", (path, "attention", "projection"), "linear"),
        **layer(f"{torch_name}.attn.proj", (path, "attention", "output"), "linear"),
        **norm(f"{torch_name}.norm2", (path, "norm2")),
        **layer(f"{torch_name}.mlp.fc1", (path, "mlp", "linear1"), "linear"),
        **layer(f"{torch_name}.mlp.fc2", (path, "mlp", "linear2"), "linear"),
    }
    if not network.attention_bias:
        del entries[f"{torch_name}.attn.qkv.bias"]
    if has_skip:
        entries |= layer(f"{torch_name}.skip_linear", (path, "skip"), "linear")
    return entries


def names(network: UViT) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    entries = {
        "pos_embed": Entry(("positions", "table")),
        **layer("patch_embed.proj", ("patches",), "conv"),
        **norm("norm", ("norm",)),
        **layer("decoder_pred", ("decoder",), "linear"),
    }
    if network.label_rows:
        entries["label_emb.weight"] = Entry(("label", "embedding"))
    if network.time_mlp:
        entries |= layer("time_embed.0", ("time", "linear1"), "linear")
        entries |= layer("time_embed.2", ("time", "linear2"), "linear")
    if network.final_convolution:
        entries |= layer("final_layer", ("final",), "conv")
    half = network.depth // 2
    for i in range(half):
        entries |= _block(f"in_blocks.{i}", f"block_{i}", network, False)
        entries |= _block(f"out_blocks.{i}", f"block_{half + 1 + i}", network, True)
    return entries | _block("mid_block", f"block_{half}", network, False)


def published_class(network: UViT, image_shape: tuple[int, int, int]) -> PublishedClass:
    """U-ViT's own class for `network`, on images of (height, width, channels)."""
    return PublishedClass(
        "github.com/baofff/U-ViT, libs/uvit.py",
        "UViT",
        {
            "img_size": image_shape[0],
            "patch_size": network.patch_size,
            "in_chans": image_shape[2],
            "embed_dim": network.hidden_size,
            "depth": network.depth,
            "num_heads": network.heads,
            "mlp_ratio": network.mlp_ratio,
            "qkv_bias": network.attention_bias,
            "mlp_time_embed": network.time_mlp,
            "num_classes": network.label_rows or -1,
            "conv": network.final_convolution,
        },
    )


def network_from_state(
    state: Mapping[str, np.ndarray],
    heads: int | None = None,
    null_class: bool | None = None,
) -> UViT:
    """Infers U-ViT from the names and shapes of its tensors.

    No tensor shows the scale of the time: see `UViT.time_scale`.

    Args:
      state: torch name -> array.
      heads: attention heads: no tensor shows them; None takes the published number
        where width and depth are those of a published size.
      null_class: whether the last row of the label table stands for no label; needed
        for a class-conditional network (true of the latent-space weights, of 1001
        rows, false of the pixel-space ones).

    Raises:
      UserError: the tensors are not those of a U-ViT, or an argument is needed.
    """
    hidden_size, image_channels, patch_size, _ = require(
        state, "patch_embed.proj.weight"
    ).shape
    require(state, "mid_block.norm1.weight")
    half = blocks_in(state, "in_blocks")
    if blocks_in(state, "out_blocks") != half:
        raise UserError("no U-ViT: in_blocks and out_blocks differ in number")
    rows = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    if rows and null_class is None:
        raise UserError(
            f"no tensor shows whether the last of {rows} classes stands for no label: "
            "give null_class"
        )
    if null_class and not rows:
        raise UserError("null_class is given, but the tensors have no label table")
    hidden = len(require(state, "mid_block.mlp.fc1.weight"))
    return UViT(
        image_channels=int(image_channels),
        patch_size=int(patch_size),
        hidden_size=int(hidden_size),
        depth=2 * half,
        heads=heads_of(SIZES, int(hidden_size), 2 * half, heads),
        mlp_ratio=hidden / int(hidden_size),
        num_classes=rows - bool(null_class),
        null_class=bool(null_class),
        attention_bias="mid_block.attn.qkv.bias" in state,
        time_mlp="time_embed.0.weight" in state,
        final_convolution="final_layer.weight" in state,
    )


def image_shape(state: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Height, width and channels of the (square) images that the weights are for."""
    _, channels, patch_size, _ = require(state, "patch_embed.proj.weight").shape
    extra = 2 if "label_emb.weight" in state else 1
    side = square_side(require(state, "pos_embed").shape[1] - extra) * int(patch_size)
    return side, side, int(channels)
