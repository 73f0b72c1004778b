"""Noise-conditional networks against what the published PyTorch code computes."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.heads.mlp import NoisyMLP
from ddae_jax.models.wideresnet import WideResNet, standardise
from ddae_jax.weights import torch_layout
from ddae_jax.weights.torch_layout import layer
from tests.tools import golden_values, wideresnet_golden

INPUT = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)


@pytest.fixture(scope="module")
def wide():
    return wideresnet_golden.load()


def test_the_wide_residual_network_gives_the_published_logits(wide):
    network, params, arrays = wide
    images = golden_values.nhwc(arrays["in/images"])
    logits = jax.jit(network.apply)({"params": params}, images, arrays["in/time"])
    assert golden_values.relative_error(logits, arrays["out/logits"]) < 1e-5
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("depth, widen", [(28, 10), (10, 2)])
def test_parameters_are_counted(depth, widen):
    network = WideResNet(10, depth=depth, widen=widen)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *INPUT)["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    assert set(network.fixed_parameters) <= set(flat)
    count = sum(v.size for k, v in flat.items() if k not in network.fixed_parameters)
    assert network.title == f"WRN-{depth}-{widen}"
    if depth == 28:
        assert count == golden_values.load("wideresnet_small")[0]["parameters_28_10"]
        embeddings = sum(
            leaf.size
            for path, leaf in flat.items()
            if "embedding" in path or path.startswith("linear")
        )
        assert count == 38_913_114 and count - embeddings == 36_220_634


@pytest.mark.parametrize("size", [(7, 7), (32, 32), (9, 12)])
def test_images_of_any_size_are_taken(size):
    network = WideResNet(5, depth=10, widen=9, dtype=jnp.bfloat16)
    images = jnp.zeros((2, *size, 1))
    variables = jax.eval_shape(network.init, jax.random.key(0), images, jnp.zeros(2))
    logits = jax.eval_shape(network.apply, variables, images, jnp.zeros(2))
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))


@pytest.mark.parametrize("field, value", [("depth", 12), ("depth", 4), ("widen", 0)])
def test_sizes_that_do_not_exist_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} {value} is not"):
        WideResNet(10, **{field: value})


@pytest.mark.slow
def test_images_are_standardised_one_by_one():
    rng = np.random.default_rng(0)
    images = rng.normal(3, [[[[5.0]]], [[[1e-4]]], [[[0.0]]]], (3, 4, 5, 2))
    ours = np.asarray(standardise(jnp.asarray(images, jnp.float32)))
    mean = images.mean((1, 2, 3), keepdims=True)
    deviation = images.std((1, 2, 3), ddof=1, keepdims=True)
    theirs = (images - mean) / np.maximum(deviation, 1 / np.sqrt(40))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    gradient = jax.grad(lambda x: standardise(x).sum())(jnp.zeros((1, 4, 4, 1)))
    assert np.isfinite(gradient).all()


def mlp_params():
    meta, arrays = golden_values.load("noisy_mlp")
    head = NoisyMLP(10)
    shapes = jax.eval_shape(
        head.init, jax.random.key(0), jnp.zeros((1, 48)), jnp.zeros(1)
    )["params"]
    names = {
        **layer("time_emb.lin1", ("time", "linear1"), "linear"),
        **layer("time_emb.lin2", ("time", "linear2"), "linear"),
        **layer("cls.0", ("hidden",), "linear"),
        **layer("cls.2", ("classes",), "linear"),
    }
    params = torch_layout.from_torch(golden_values.state(meta), names, shapes)
    return head, params, arrays


def test_the_head_gives_the_published_logits():
    head, params, arrays = mlp_params()
    logits = head.apply({"params": params}, arrays["in/features"], arrays["in/time"])
    assert golden_values.relative_error(logits, arrays["out/logits"]) < 1e-5


def test_the_head_embeds_the_raw_time():
    head, params, arrays = mlp_params()
    features, time = arrays["in/features"], arrays["in/time"].astype(np.float64)
    frequencies = 10_000.0 ** -(np.arange(6) / 5)
    angles = time[:, None] * frequencies
    x = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    def apply(layer, x):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    def silu(x):
        return x / (1 + np.exp(-x))

    x = apply(params["time"]["linear2"], silu(apply(params["time"]["linear1"], x)))
    x = apply(params["classes"], silu(apply(params["hidden"], features + x)))
    ours = head.apply({"params": params}, features, arrays["in/time"])
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-5)


def test_a_head_of_too_few_features_is_refused():
    with pytest.raises(UserError, match="8 features are too few"):
        NoisyMLP(10).init(jax.random.key(0), jnp.zeros((1, 8)), jnp.zeros(1))
