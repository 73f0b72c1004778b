"""SongUNet against NVlabs/edm: outputs, taps, parameter counts, names, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.edm import EDM
from ddae_jax.errors import UserError
from ddae_jax.models.resampling import downsample, upsample
from ddae_jax.models.songunet import SongUNet
from ddae_jax.weights import songunet as songunet_weights
from ddae_jax.weights import torch_layout
from tests.tools import golden_values

GOLDEN = ["edm_ddpmpp_small", "edm_ncsnpp_small"]

# The compiler's optimiser takes longer than the small networks run.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def network_of(kwargs):
    sides = [16 >> level for level in range(len(kwargs["channel_mult"]))]
    return SongUNet(
        image_channels=3,
        resolution=16,
        channels=kwargs["model_channels"],
        channel_multipliers=tuple(kwargs["channel_mult"]),
        attention=tuple(side in kwargs["attn_resolutions"] for side in sides),
        blocks=kwargs["num_blocks"],
        dropout=kwargs["dropout"],
        fourier=kwargs["embedding_type"] == "fourier",
        noise_multiplier=kwargs["channel_mult_noise"],
        residual_encoder=kwargs["encoder_type"] == "residual",
        resample_filter=tuple(kwargs["resample_filter"]),
        augment_channels=kwargs["augment_dim"],
    )


def leaf_at(tree, path):
    return functools.reduce(lambda node, key: node[key], path, tree)


@functools.cache
def golden_case(name):
    meta, arrays = golden_values.load(name)
    denoiser = Denoiser(network_of(meta["kwargs"]), EDM())
    shapes = jax.eval_shape(
        lambda key: denoiser.init(key, (16, 16, 3)), jax.random.key(0)
    )
    table = songunet_weights.names(denoiser.network)
    params = torch_layout.from_torch(golden_values.state(meta), table, shapes)
    images = {
        key: golden_values.nhwc(array) if array.ndim == 4 else array
        for key, array in arrays.items()
    }
    return meta, images, denoiser, params


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_and_taps_match_the_official_network(name):
    _, arrays, denoiser, params = golden_case(name)
    network, process = denoiser.network, denoiser.process
    paths = network.tap_paths()
    wanted = {(path,) for path in paths.values()}
    sigma, images, augment = arrays["in/sigma"], arrays["in/x"], arrays["in/aug"]

    @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    def apply(params, images, time, augment):
        return network.apply(
            {"params": params},
            images,
            time,
            None,
            augment,
            capture_intermediates=lambda module, _: module.path in wanted,
            mutable=["intermediates"],
        )

    @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
    def denoise(params, images, sigma, augment):
        output = denoiser.output(params, images, sigma, augment_labels=augment)
        return process.x0(output, images, sigma)

    def error(ours, key):
        return golden_values.relative_error(ours, arrays[key])

    assert error(denoise(params, images, sigma, augment), "out/denoised") < 1e-5
    unaugmented = denoise(params, images, sigma, np.zeros_like(augment))
    assert error(unaugmented, "out/denoised_noaug") < 1e-5
    output, state = apply(params, images, np.log(sigma) / 4, augment)
    assert error(output, "out/F_raw") < 1e-5
    captured = state["intermediates"]
    golden_taps = [key for key in arrays if key.startswith("act_gap")]
    published = [tap for tap in paths if not tap.startswith("out_")]
    assert [f"act_gap/{tap}" for tap in published] == golden_taps
    for tap in published:
        pooled = captured[paths[tap]]["__call__"][0].mean((1, 2))
        assert error(pooled, f"act_gap/{tap}") < 1e-5, tap


def test_taps_are_in_order_of_depth_and_out_numbers_the_blocks_with_a_skip():
    taps = SongUNet().tap_paths()
    assert taps["out_1"] == taps["dec.8x8_block0"] == "dec_8x8_block0"
    assert taps["out_6"] == taps["dec.16x16_block0"]
    assert taps["out_15"] == taps["dec.32x32_block4"]
    assert len([tap for tap in taps if tap.startswith("out_")]) == 15
    assert list(taps)[:3] == ["dec.8x8_in0", "dec.8x8_in1", "dec.8x8_block0"]


@pytest.mark.parametrize(
    "kwargs, count",
    [
        ({}, 55_733_891),
        (
            {
                "fourier": True,
                "noise_multiplier": 2,
                "residual_encoder": True,
                "resample_filter": (1, 3, 3, 1),
            },
            56_397_827,
        ),
    ],
    ids=["DDPM++", "NCSN++"],
)
def test_full_size_networks_have_the_published_number_of_parameters(kwargs, count):
    network = SongUNet(image_channels=3, augment_channels=9, **kwargs)
    denoiser = Denoiser(network, EDM())
    shapes = jax.eval_shape(
        lambda key: denoiser.init(key, (32, 32, 3)), jax.random.key(0)
    )
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    for path in network.fixed_parameters:
        total -= leaf_at(shapes, path.split("/")).size
    assert total == count
    table = songunet_weights.names(network)
    state = {
        name: np.zeros(shape, "int8")
        for name, shape in torch_shapes(table, shapes).items()
    }
    assert songunet_weights.network_from_state(state) == network


def torch_shapes(table, shapes):
    def shape(entry):
        leaf = leaf_at(shapes, entry.path)
        layout = torch_layout.LAYOUTS[entry.layout]
        return layout.to_torch(np.broadcast_to(np.int8(0), leaf.shape)).shape

    return {name: shape(entry) for name, entry in table.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_tensors_tell_the_network_and_the_round_trip_is_bitwise(name):
    meta, _, denoiser, params = golden_case(name)
    state = golden_values.state(meta)
    network = songunet_weights.network_from_state(state)
    assert network.clone(dropout=0) == denoiser.network.clone(dropout=0)
    again = torch_layout.to_torch(params, songunet_weights.names(network))
    assert again.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(again[key], state[key])


def test_filters_in_a_checkpoint_are_read_checked_and_left_out():
    meta, _, denoiser, _ = golden_case("edm_ddpmpp_small")
    state = golden_values.state(meta)
    taps = np.array([1, 3, 3, 1]) / 8
    name = "model.enc.8x8_down.conv0.resample_filter"
    checkpoint = state | {name: np.outer(taps, taps).astype(np.float32)[None, None]}
    network = songunet_weights.network_from_state(checkpoint)
    assert network.resample_filter == (1, 3, 3, 1)
    assert songunet_weights.without_filters(checkpoint, network).keys() == state.keys()
    with pytest.raises(UserError, match="resample_filter"):
        songunet_weights.without_filters(checkpoint, denoiser.network)
    with pytest.raises(UserError, match="no SongUNet"):
        songunet_weights.network_from_state({"final.bias": np.zeros(3)})


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 4, 4, 2, 1)])
def test_resampling_is_the_strided_filter_it_stands_for(taps):
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 3)).astype(np.float32)
    padding = [((len(taps) - 1) // 2,) * 2] * 2
    weights = np.outer(taps, taps) / sum(taps) ** 2
    kernel = np.tile(weights[:, :, None, None], (1, 1, 1, 3)).astype(np.float32)

    def filtered(x, kernel, strides, padding):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    down = filtered(x, kernel, (2, 2), padding)
    np.testing.assert_allclose(downsample(x, taps), down, atol=1e-6)
    spread = np.zeros((2, 16, 12, 3), np.float32)
    spread[:, ::2, ::2] = x
    half = len(taps) // 2
    # The transposed convolution's padding: len(taps) - 1 less the forward one.
    up = filtered(spread, 4 * kernel[::-1, ::-1], (1, 1), [(half, half - 1)] * 2)
    np.testing.assert_allclose(upsample(x, taps), up, atol=1e-6)
    with pytest.raises(ValueError, match="even"):
        upsample(x, (1, 2, 1))


def tiny(**kwargs):
    return SongUNet(
        resolution=8,
        channels=16,
        channel_multipliers=(1, 1),
        attention=(False, True),
        blocks=0,
        dropout=0.0,
        fourier=True,
        noise_multiplier=2,
        residual_encoder=True,
        resample_filter=(1, 3, 3, 1),
        num_classes=3,
        **kwargs,
    )


def random_params(network):
    """Parameters of order one, since most branches start at nearly zero."""
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.ones(1)
    )["params"]
    rng = np.random.default_rng(1)

    def draw(leaf):
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.mark.slow
def test_gradients_remat_dtype_and_labels():
    network = tiny()
    params = random_params(network)
    direction = random_params(network)
    direction["embedding"]["fourier"]["frequencies"][:] = 0
    rng = np.random.default_rng(2)
    images = rng.standard_normal((2, 8, 8, 3)).astype(np.float32)
    time, labels = np.array([-0.3, 0.4], np.float32), np.array([0, 2])
    weights = rng.standard_normal(images.shape).astype(np.float32)

    def loss(params, network, labels):
        output = network.apply({"params": params}, images, time, labels)
        return jnp.sum(output * weights), output

    value_and_grad = jax.jit(
        jax.value_and_grad(loss, has_aux=True),
        static_argnums=1,
        compiler_options=UNOPTIMIZED,
    )
    (_, full), gradient = value_and_grad(params, network, labels)
    assert np.all(gradient["embedding"]["fourier"]["frequencies"] == 0)
    step = 1e-3
    values = [
        value_and_grad(
            jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction),
            network,
            labels,
        )[0][0]
        for sign in (1, -1)
    ]
    slope = sum(map(np.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    np.testing.assert_allclose((values[0] - values[1]) / (2 * step), slope, rtol=1e-2)

    _, recomputed = value_and_grad(params, network.clone(remat="full"), labels)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradient,
        recomputed,
    )

    half_network = network.clone(dtype=jnp.bfloat16)
    half = jax.jit(half_network.apply, compiler_options=UNOPTIMIZED)(
        {"params": params}, images, time, labels
    )
    assert half.dtype == jnp.float32
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert error < 3e-2
    (_, null), _ = value_and_grad(params, network, np.array([network.null_label, 2]))
    assert not np.allclose(null[0], full[0], atol=1e-3)
    np.testing.assert_array_equal(null[1], full[1])


def test_images_of_another_resolution_are_refused():
    with pytest.raises(UserError, match="resolution=8"):
        tiny().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.ones(1))
