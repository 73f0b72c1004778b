"""Features: the published ones, their noise, whole sets, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.errors import UserError
from ddae_jax.features.encode import (
    Encoder,
    encode_set,
    example_noise,
    extract,
    pool,
)
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel
from tests.tools import golden_values
from tests.tools.golden_processes import NETWORK, TAPS, official


@pytest.mark.parametrize(
    "process, indices", [(DDPM(), (11,)), (EDM(), (3, 4, 5))], ids=["ddpm", "edm"]
)
def test_features_are_the_published_ones(process, indices):
    name = "process_ddpm" if isinstance(process, DDPM) else "process_edm"
    params, golden = official(name)
    denoiser = Denoiser(NETWORK, process)
    x0, noise = 2 * golden["in/image01"] - 1, golden["in/noise"]
    compiled = jax.jit(
        lambda params, x0, time, noise: extract(denoiser, params, x0, time, noise, TAPS)
    )
    for index in indices:
        time = jnp.float32(process.official_time(index))
        found = compiled(params, x0, time, noise)
        assert list(found) == TAPS
        for tap, feature in found.items():
            expected = golden[f"feature_t{index}/{tap}"]
            assert golden_values.relative_error(feature, expected) < 1e-5
            if f"feature_t{index}_unit/{tap}" in golden:
                unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
                expected = golden[f"feature_t{index}_unit/{tap}"]
                assert golden_values.relative_error(unit, expected) < 1e-5


def test_pooling_keeps_image_tokens_only():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(pool(image), image.mean((1, 2)), atol=1e-6)
    tokens = image.reshape(2, 12, 5)
    np.testing.assert_allclose(pool(tokens, 2), tokens[:, 2:].mean(1), atol=1e-6)
    half = pool(jnp.asarray(image, jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_noise_depends_on_key_and_position_alone():
    key = jax.random.key(3)
    whole = example_noise(key, jnp.arange(6), (4, 4, 1))
    part = example_noise(key, jnp.array([4, 1]), (4, 4, 1))
    np.testing.assert_array_equal(part, whole[jnp.array([4, 1])])
    other = example_noise(jax.random.fold_in(key, 1), jnp.arange(6), (4, 4, 1))
    assert not np.any(np.asarray(other) == np.asarray(whole))
    assert abs(float(example_noise(key, jnp.arange(99), (8, 8, 1)).std()) - 1) < 0.03


@functools.cache
def tiny():
    """A denoiser of 8x8 grey images, and its parameters."""
    network = UNet(
        image_channels=1,
        channels=32,
        channel_multipliers=(1,),
        attention=(False,),
        blocks=1,
    )
    denoiser = Denoiser(network, DDPM())
    return denoiser, jax.jit(lambda key: denoiser.init(key, (8, 8, 1)))(
        jax.random.key(0)
    )


def test_a_set_is_encoded_image_by_image_whatever_the_batch():
    denoiser, params = tiny()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(11) % 2
    resident = data_source.from_arrays("noise", "test", images, labels, "ab")
    streamed = data_source.from_arrays(
        "noise", "test", images, labels, "ab", resident_bytes=0
    )
    key, taps, times = jax.random.key(5), ("out_1", "out_2"), (1.0, 300.0)
    mesh, encoder = parallel.make_mesh(), Encoder(denoiser, taps)
    four = encode_set(encoder, params, mesh, resident, times, key, 4)
    eight = encode_set(encoder, params, mesh, streamed, times, key, 8)
    x0 = jnp.asarray(images, jnp.float32) / 127.5 - 1
    noise = example_noise(key, jnp.arange(11), (8, 8, 1))
    once = jax.jit(
        lambda time: extract(denoiser, params, x0, time, noise, taps),
    )
    for time, small, large in zip(times, four, eight, strict=True):
        for tap, expected in once(jnp.float32(time)).items():
            assert small[tap].shape == (11, 32)
            assert small[tap].dtype == np.float32
            np.testing.assert_allclose(small[tap], expected, atol=2e-5)
            np.testing.assert_allclose(large[tap], expected, atol=2e-5)


def test_an_unknown_tap_is_named():
    denoiser, params = tiny()
    x0 = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UserError, match="no tap 'out_9'; known: out_1, out_2"):
        extract(denoiser, params, x0, 1.0, x0, ["out_9"])


def flops(function, *shapes):
    # The count is of the optimised graph; no machine code as good is needed for it.
    options = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(function).lower(*shapes).compile(options)
    return compiled.cost_analysis()["flops"]


@pytest.mark.slow
def test_a_grid_costs_little_more_than_its_deepest_tap_and_out_6_less_than_all():
    denoiser = Denoiser(UNet(), DDPM())
    params = jax.eval_shape(
        lambda key: denoiser.init(key, (32, 32, 3)), jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 35_746_307
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    every = list(denoiser.network.tap_paths())
    assert len(every) == 12

    def cost(taps):
        return flops(
            lambda p, x0, t, noise: extract(denoiser, p, x0, t, noise, taps),
            params,
            images,
            time,
            images,
        )

    whole = flops(denoiser.output, params, images, time)
    assert cost(["out_6"]) < 0.7 * whole
    # A time of the grid is one call of the same program: all taps of one pass.
    grid, deepest = 3 * cost(every), 3 * cost(every[-1:])
    assert grid < 1.2 * deepest
    assert deepest <= 1.02 * 3 * whole
