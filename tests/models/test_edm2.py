"""EDM2 against FutureXiang/edm2: outputs, taps, parameter counts, normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.weights import edm2 as edm2_weights
from ddae_jax.weights import torch_layout
from tests.tools import golden_values

GOLDEN = [("edm2_c_small", False), ("edm2_e_small", True)]

# The compiler's optimiser takes longer than the small networks run.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def network_of(kwargs, weight_normalization):
    return EDM2UNet(
        image_channels=kwargs["image_shape"][0],
        channels=kwargs["n_channels"],
        channel_multipliers=tuple(kwargs["ch_mults"]),
        attention=tuple(kwargs["is_attn"]),
        blocks=kwargs["n_blocks"] - 1,
        dropout=kwargs["dropout"],
        weight_normalization=weight_normalization,
        uncertainty=False,
    )


def shapes_of(network, side):
    images, time = jnp.zeros((1, side, side, 3)), jnp.ones(1)
    return jax.eval_shape(network.init, jax.random.key(0), images, time)["params"]


def leaf_at(tree, path):
    return functools.reduce(lambda node, key: node[key], path, tree)


@functools.cache
def golden_case(name, weight_normalization):
    meta, arrays = golden_values.load(name)
    network = network_of(meta["kwargs"], weight_normalization)
    params = torch_layout.from_torch(
        golden_values.state(meta), edm2_weights.names(network), shapes_of(network, 16)
    )
    arrays = {
        key: golden_values.nhwc(array) if array.ndim == 4 else array
        for key, array in arrays.items()
    }
    return meta, arrays, network, params


@pytest.mark.parametrize("name, weight_normalization", GOLDEN)
def test_outputs_and_taps_match_the_official_network(name, weight_normalization):
    _, arrays, network, params = golden_case(name, weight_normalization)
    paths = {(path,) for path in network.tap_paths().values()}

    @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    def apply(params, images, time):
        return network.apply(
            {"params": params},
            images,
            time,
            capture_intermediates=lambda module, _: module.path in paths,
            mutable=["intermediates"],
        )

    output, state = apply(params, arrays["in/x"], arrays["in/t"])
    assert golden_values.relative_error(output, arrays["out/y"]) < 1e-5
    taps = [key for key in arrays if key.startswith("act/")]
    assert taps == [f"act/{tap}" for tap in network.tap_paths()]
    for key in taps:
        tap = state["intermediates"][key.split("/")[1]]["__call__"][0]
        assert golden_values.relative_error(tap, arrays[key]) < 1e-5, key
    # Projection keeps the function, up to the epsilon that these small kernels feel.
    if weight_normalization:
        params = jax.jit(network.project)(params)
        output, _ = apply(params, arrays["in/x"], arrays["in/t"])
        assert golden_values.relative_error(output, arrays["out/y"]) < 1e-2


CIFAR = {"channel_multipliers": (1, 2, 2, 2), "attention": (False, True, False, False)}
TINY_IMAGENET = {
    "channel_multipliers": (1, 2, 2, 2),
    "attention": (False, False, True, False),
    "blocks": 4,
    "dropout": 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize("weight_normalization", [False, True], ids=["C", "E"])
@pytest.mark.parametrize(
    "kwargs, side, count",
    [(CIFAR, 32, 39_509_888), (TINY_IMAGENET, 64, 62_414_720)],
    ids=["CIFAR-10", "Tiny-ImageNet"],
)
def test_full_size_networks_have_the_published_number_of_parameters(
    kwargs, side, count, weight_normalization
):
    network = EDM2UNet(
        image_channels=3, **kwargs, weight_normalization=weight_normalization
    )
    shapes = shapes_of(network, side)
    frozen = sum(
        leaf_at(shapes, path.split("/")).size
        for path in network.fixed_parameters
        if path.startswith("embedding/")
    )
    # The published figure leaves out the constants and the uncertainty of the loss.
    uncertainty = shapes["loss_uncertainty"]
    assert sum(leaf.size for leaf in jax.tree.leaves(uncertainty)) == 3 * 256
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes)) - frozen - 3 * 256
    assert total == count

    def torch_shape(entry):
        layout = torch_layout.LAYOUTS[entry.layout]
        leaf = leaf_at(shapes, entry.path)
        return layout.to_torch(np.broadcast_to(np.int8(0), leaf.shape))

    table = edm2_weights.names(network)
    state = {name: torch_shape(entry) for name, entry in table.items()}
    found = edm2_weights.network_from_state(state, weight_normalization)
    assert found.clone(dropout=0) == network.clone(dropout=0)


@pytest.mark.parametrize("name, weight_normalization", GOLDEN)
def test_tensors_tell_the_network_and_the_round_trip_is_bitwise(
    name, weight_normalization
):
    meta, _, network, params = golden_case(name, weight_normalization)
    state = golden_values.state(meta)
    found = edm2_weights.network_from_state(state, weight_normalization)
    assert found.clone(dropout=0) == network.clone(dropout=0)
    again = torch_layout.to_torch(params, edm2_weights.names(network))
    assert again.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(again[key], state[key])
    with pytest.raises(UserError, match=r"no EDM2 UNet: image_proj\.weight missing"):
        edm2_weights.network_from_state(
            {key: state[key] for key in state if key != "image_proj.weight"}, True
        )


def tiny(weight_normalization):
    return EDM2UNet(
        channels=32,
        channel_multipliers=(1, 1),
        attention=(False, True),
        blocks=0,
        dropout=0.0,
        weight_normalization=weight_normalization,
    )


def test_projection_gives_every_output_of_every_kernel_unit_variance():
    network = tiny(True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 3 * rng.standard_normal(leaf.shape).astype(np.float32),
        shapes_of(network, 8),
    )
    projected = jax.jit(network.project)(params)
    for path, leaf in jax.tree.leaves_with_path(projected):
        if path[-1].key == "kernel":
            root = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(root, 1, atol=3e-4)
    for path in network.fixed_parameters:
        keys = path.split("/")
        np.testing.assert_array_equal(leaf_at(projected, keys), leaf_at(params, keys))
    assert tiny(False).project(params) is params


@pytest.mark.parametrize("weight_normalization", [False, True], ids=["C", "E"])
def test_uncertainty_is_the_linear_map_of_random_cosines(weight_normalization):
    network = tiny(weight_normalization)
    shapes = shapes_of(network, 8)["loss_uncertainty"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
    )
    time = np.array([-1.5, 0.0, 0.7], np.float32)
    waves = np.cos(
        2
        * np.pi
        * (
            time[:, None] * params["fourier"]["frequencies"]
            + params["fourier"]["phases"]
        )
    )
    kernel = params["linear"]["kernel"][:, 0]
    if weight_normalization:
        kernel = kernel / np.linalg.norm(kernel)
    ours = network.apply(
        {"params": {"loss_uncertainty": params}}, time, method="log_variance"
    )
    np.testing.assert_allclose(ours, waves @ kernel, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("weight_normalization", [False, True], ids=["C", "E"])
def test_gradients_remat_and_dtype(weight_normalization):
    network = tiny(weight_normalization)
    rng = np.random.default_rng(1)

    def draw(leaf):
        fan_in = 1 if weight_normalization else max(1, int(np.prod(leaf.shape[:-1])))
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    shapes = shapes_of(network, 8)
    params, direction = jax.tree.map(draw, shapes), jax.tree.map(draw, shapes)
    for path in network.fixed_parameters:
        leaf_at(direction, path.split("/"))[:] = 0
    images = rng.standard_normal((2, 8, 8, 3)).astype(np.float32)
    time = np.array([-0.3, 0.4], np.float32)
    weights = rng.standard_normal(images.shape).astype(np.float32)

    def loss(params, network):
        output = network.apply({"params": params}, images, time)
        u = network.apply({"params": params}, time, method="log_variance")
        return jnp.mean(output * weights) + jnp.mean(u), output

    value_and_grad = jax.jit(
        jax.value_and_grad(loss, has_aux=True),
        static_argnums=1,
        compiler_options=UNOPTIMIZED,
    )
    (_, full), gradient = value_and_grad(params, network)
    for path in network.fixed_parameters:
        assert not np.any(leaf_at(gradient, path.split("/")))
    step = 3e-3
    above, below = (
        value_and_grad(
            jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction),
            network,
        )[0][0]
        for sign in (1, -1)
    )
    slope = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    np.testing.assert_allclose((above - below) / (2 * step), slope, rtol=1e-2)

    if weight_normalization:  # the blocks are the same, one compilation is enough
        _, recomputed = value_and_grad(params, network.clone(remat="full"))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            gradient,
            recomputed,
        )
    half_network = network.clone(dtype=jnp.bfloat16)
    half = jax.jit(half_network.apply, compiler_options=UNOPTIMIZED)(
        {"params": params}, images, time
    )
    assert half.dtype == jnp.float32
    assert np.linalg.norm(half - full) / np.linalg.norm(full) < 3e-2
