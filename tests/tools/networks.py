"""Parameters and forward passes of networks, for tests."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes_of(network, image_shape: tuple[int, ...]) -> dict:
    """The tree of parameters as ShapeDtypeStructs."""
    return jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, *image_shape)), jnp.ones(1)
    )["params"]


def random_params(network, image_shape: tuple[int, ...], seed: int = 0) -> dict:
    """Normal parameters over the square root of their inputs.

    A new network would not do: many start with layers that are zero.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        inputs = max(1, int(np.prod(leaf.shape[:-1])))
        return (rng.standard_normal(leaf.shape) / np.sqrt(inputs)).astype(np.float32)

    return jax.tree.map(draw, shapes_of(network, image_shape))


def leaf_at(tree: dict, path: str):
    """The leaf of a "/"-joined path."""
    for part in path.split("/"):
        tree = tree[part]
    return tree


def taps_of(network, params: dict, *inputs) -> tuple[jax.Array, dict]:
    """Output and tap -> value, in order of depth, of one forward pass."""
    paths = network.tap_paths()
    output, state = network.apply(
        {"params": params},
        *inputs,
        capture_intermediates=lambda module, method: (
            method == "__call__" and "/".join(module.path) in paths.values()
        ),
        mutable=["intermediates"],
    )
    captured = state["intermediates"]
    return output, {
        tap: leaf_at(captured, path)["__call__"][0] for tap, path in paths.items()
    }
