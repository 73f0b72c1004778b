"""The UNet against the official network: outputs, taps, parameter counts, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.weights import torch_layout
from ddae_jax.weights import unet as unet_weights
from tests.tools import golden_values
from tests.tools.unet_golden import network_of, params_of


@pytest.mark.parametrize(
    "name, tolerance",
    [
        ("unet_small", 1e-5),
        ("unet_small_bigup", 1e-5),
        pytest.param("unet_ddpm", 1e-4, marks=pytest.mark.slow),
        pytest.param("unet_ddpmpp_aug", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_outputs_and_taps_match_the_official_network(name, tolerance):
    meta, arrays = golden_values.load(name)
    network = network_of(meta["kwargs"])
    images = golden_values.nhwc(arrays["in/x"])
    params = params_of(network, meta, images.shape[1:])
    paths = {(path,) for path in network.tap_paths().values()}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == meta["parameters"]

    @jax.jit
    def apply(params, images, time, augment_labels):
        return network.apply(
            {"params": params},
            images,
            time,
            None,
            augment_labels,
            capture_intermediates=lambda module, _: module.path in paths,
            mutable=["intermediates"],
        )

    output, state = apply(params, images, arrays["in/t"], arrays.get("in/aug"))
    expected = golden_values.nhwc(arrays["out/y"])
    assert golden_values.relative_error(output, expected) < tolerance
    captured = state["intermediates"]
    taps = [key for key in arrays if key.startswith("act")]
    assert len(taps) == len(network.tap_paths())
    for key in taps:
        tap = captured[key.split("/")[1]]["__call__"][0]
        if key.startswith("act_gap"):
            error = golden_values.relative_error(tap.mean((1, 2)), arrays[key])
        else:
            error = golden_values.relative_error(tap, golden_values.nhwc(arrays[key]))
        assert error < tolerance, key


@pytest.mark.parametrize(
    "name", ["unet_small", "unet_small_bigup", "unet_ddpm", "unet_ddpmpp_aug"]
)
def test_the_network_is_inferred_from_its_tensors(name):
    meta, _ = golden_values.load(name)
    state = {key: np.zeros(shape, "int8") for key, shape in meta["spec"].items()}
    heads = meta["kwargs"].get("attn_channels_per_head")
    found = unet_weights.network_from_state(state, heads)
    assert found.clone(dropout=0) == network_of(meta["kwargs"]).clone(dropout=0)


def test_torch_round_trip_is_bitwise_and_bad_tensors_are_listed():
    meta, _ = golden_values.load("unet_small")
    network = network_of(meta["kwargs"])
    names = unet_weights.names(network)
    params = params_of(network, meta, (16, 16, 3))
    state = golden_values.state(meta)
    again = torch_layout.to_torch(params, names)
    assert again.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(again[key], state[key])

    broken = dict(state)
    broken["renamed.weight"] = broken.pop("up.0.res.conv1.weight")
    broken["final.bias"] = np.zeros(4, np.float32)
    with pytest.raises(UserError) as raised:
        torch_layout.from_torch(broken, names, params)
    message = str(raised.value)
    for part in ["missing: up.0.res.conv1.weight", "renamed.weight", "final.bias (4,)"]:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["unet_small", "unet_small_bigup"])
def test_bfloat16_is_near_float32(name):
    meta, arrays = golden_values.load(name)
    network = network_of(meta["kwargs"]).clone(dtype=jnp.bfloat16)
    images = golden_values.nhwc(arrays["in/x"])
    params = params_of(network, meta, images.shape[1:])
    output = jax.jit(network.apply)(
        {"params": params}, images, arrays["in/t"], None, arrays.get("in/aug")
    )
    assert output.dtype == jnp.float32
    expected = golden_values.nhwc(arrays["out/y"])
    error = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    print(f"{name}: relative error {error:.1e}")
    assert error < 3e-2
