"""The published code's small WideResNet as ours."""

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.models.wideresnet import WideResNet
from ddae_jax.weights import torch_layout
from ddae_jax.weights.torch_layout import Entry, layer, norm
from tests.tools import golden_values


def _names(blocks: int) -> dict[str, Entry]:
    names = {
        "time_emb.W": Entry(("fourier", "frequencies")),
        "init_conv.weight": Entry(("image", "kernel"), "conv"),
        **layer("time_emb_mlp.0", ("linear1",), "linear"),
        **layer("time_emb_mlp.2", ("linear2",), "linear"),
        **norm("pre_pool_bn.0", ("norm",)),
        **layer("final_linear", ("classes",), "linear"),
    }
    for group in (1, 2, 3):
        for i in range(blocks):
            theirs, ours = f"group{group}.blocks.{i}", f"group{group}_{i}"
            names |= norm(f"{theirs}.init_bn.0", (ours, "norm1"))
            names |= norm(f"{theirs}.bn_2.0", (ours, "norm2"))
            names |= layer(f"{theirs}.time_emb.1", (ours, "embedding"), "linear")
            for conv in ("conv1", "conv2"):
                entry = Entry((ours, conv, "kernel"), "conv")
                names[f"{theirs}.{conv}.weight"] = entry
    return names


def load() -> tuple[WideResNet, dict, dict[str, np.ndarray]]:
    """The network, its parameters, and the arrays of the golden file."""
    meta, arrays = golden_values.load("wideresnet_small")
    network = WideResNet(10, depth=16, widen=3)
    inputs = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    params = torch_layout.from_torch(golden_values.state(meta), _names(2), shapes)
    return network, params, arrays
