"""LightningDiT: names of the official PyTorch checkpoints (hustvl/LightningDiT)."""

from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models.lightningdit import SIZES, LightningDiT
from ddae_jax.models.transformer import rotary_angles
from ddae_jax.weights.dit import (
    image_shape,
    shared_arguments,
    shared_block_names,
    shared_fields,
    shared_names,
)
from ddae_jax.weights.torch_layout import Entry, PublishedClass, layer
from ddae_jax.weights.vision_transformer import require

__all__ = [
    "BUFFERS",
    "buffers",
    "image_shape",
    "names",
    "network_from_state",
    "published_class",
    "without_buffers",
]

# What checkpoints hold beside parameters: the tables of the rotary positions.
BUFFERS = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")


def without_buffers(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops the rotary tables, which follow from the network's size."""
    return {name: array for name, array in state.items() if name not in BUFFERS}


def buffers(
    network: LightningDiT, image_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """The rotary tables that PyTorch's strict loading wants beside the parameters."""
    grid = tuple(side // network.patch_size for side in image_shape[:2])
    return dict(
        zip(
            BUFFERS,
            rotary_angles(grid, network.hidden_size // network.heads),
            strict=True,
        )
    )


def names(network: LightningDiT) -> dict[str, Entry]:
    """Maps every torch tensor name of `network` to its place in our parameters."""
    entries = shared_names()
    entries["final_layer.norm_final.weight"] = Entry(("final", "norm", "scale"))
    for i in range(network.depth):
        name, path = f"blocks.{i}", f"block_{i}"
        entries |= shared_block_names(i)
        entries |= {
            f"{name}.norm1.weight": Entry((path, "norm1", "scale")),
            f"{name}.norm2.weight": Entry((path, "norm2", "scale")),
            **layer(f"{name}.mlp.w12", (path, "mlp", "linear1"), "linear"),
            **layer(f"{name}.mlp.w3", (path, "mlp", "linear2"), "linear"),
        }
    return entries


def published_class(
    network: LightningDiT, image_shape: tuple[int, int, int]
) -> PublishedClass:
    """LightningDiT's own class for `network`, on (height, width, channels)."""
    arguments = shared_arguments(network, image_shape)
    if network.mlp_features is not None:
        # Theirs is int(2 / 3 * int(mlp_ratio * hidden_size)): away from both edges.
        hidden = network.mlp_features * 3 // 2 + 1
        arguments["mlp_ratio"] = (hidden + 0.5) / network.hidden_size
    return PublishedClass(
        "github.com/hustvl/LightningDiT, models/lightningdit.py",
        "LightningDiT",
        {
            **arguments,
            "use_qknorm": False,
            "use_swiglu": True,
            "use_rope": True,
            "use_rmsnorm": True,
            "wo_shift": False,
        },
    )


def network_from_state(
    state: Mapping[str, np.ndarray], heads: int | None = None
) -> LightningDiT:
    """Infers LightningDiT from the names and shapes of its tensors.

    Args:
      state: torch name -> array; the last row of the label table is the null class.
      heads: attention heads: no tensor shows them; None takes the published number
        where width and depth are those of a published size.

    Raises:
      UserError: the tensors are not those of a LightningDiT with RMSNorm, SwiGLU and
        no normalisation of queries and keys, or `heads` is needed.
    """
    fields = shared_fields(state, SIZES, heads)
    require(state, "final_layer.norm_final.weight")
    if "blocks.0.attn.q_norm.weight" in state:
        raise UserError("a LightningDiT with use_qknorm: only without it is supported")
    mlp_features = require(state, "blocks.0.mlp.w3.weight").shape[1]
    usual = int(2 / 3 * 4 * fields["hidden_size"])
    return LightningDiT(
        **fields, mlp_features=None if mlp_features == usual else int(mlp_features)
    )
