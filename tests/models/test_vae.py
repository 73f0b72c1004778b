"""Stable Diffusion's autoencoder against diffusers': values, sizes, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ddae_jax.errors import UserError
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.weights import torch_layout
from ddae_jax.weights import vae as vae_weights
from tests.tools import golden_values

SMALL = AutoencoderKL(widths=(32, 64), blocks=1)


def shapes_of(network):
    image = jnp.zeros((1, 32, 32, network.image_channels))
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


@pytest.fixture(scope="module")
def golden():
    meta, arrays = golden_values.load("vae_small")
    state = golden_values.state(meta)
    params = torch_layout.from_torch(state, vae_weights.names(SMALL), shapes_of(SMALL))
    return state, params, arrays


def test_encoder_and_decoder_match_diffusers(golden):
    _, params, arrays = golden

    @jax.jit
    def apply(params, images):
        mean, log_variance = SMALL.apply({"params": params}, images, method="encode")
        decoded = SMALL.apply({"params": params}, mean, method="decode")
        return mean, log_variance, decoded

    images = golden_values.nhwc(arrays["in/x"])
    for ours, key in zip(
        apply(params, images), ["mean", "logvar", "decoded"], strict=True
    ):
        theirs = golden_values.nhwc(arrays[f"out/{key}"])
        assert golden_values.relative_error(ours, theirs) < 1e-5, key


def test_full_size_has_the_published_parameters_and_is_inferred():
    shapes = shapes_of(AutoencoderKL())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863
    # A stand-in for each tensor: only names and shapes matter here.
    arrays = jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), shapes)
    state = {
        name: torch_layout.LAYOUTS[entry.layout].to_torch(leaf)
        for name, entry in vae_weights.names(AutoencoderKL()).items()
        for leaf in [_at(arrays, entry.path)]
    }
    assert vae_weights.network_from_state(state) == AutoencoderKL()
    with pytest.raises(UserError, match=r"decoder\.conv_in\.weight is missing"):
        del state["decoder.conv_in.weight"]
        vae_weights.network_from_state(state)


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_safetensors_round_trip_is_bitwise_and_old_names_are_accepted(golden):
    state, params, _ = golden
    names = vae_weights.names(SMALL)
    exported = torch_layout.to_torch(params, names)
    again = safetensors.numpy.load(safetensors.numpy.save(exported))
    assert again.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(again[key], state[key])

    old = {
        name.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): array
        for name, array in state.items()
    }
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in old
    assert vae_weights.network_from_state(old) == SMALL
    renamed = vae_weights.current_names(old)
    assert renamed.keys() == state.keys()
    loaded = torch_layout.from_torch(renamed, names, shapes_of(SMALL))
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(UserError, match="there twice"):
        vae_weights.current_names({**old, **state})


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match=r"33x32 pixels: .* multiples of 2"):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 33, 32, 3)))


def test_bfloat16_stays_close_to_float32(golden):
    _, params, arrays = golden
    low = SMALL.clone(dtype=jnp.bfloat16)
    decode = jax.jit(
        lambda params, latents: low.apply({"params": params}, latents, method="decode")
    )
    encode = jax.jit(
        lambda params, images: low.apply({"params": params}, images, method="encode")
    )
    mean = golden_values.nhwc(arrays["out/mean"])
    decoded = golden_values.nhwc(arrays["out/decoded"])
    ours, _ = encode(params, golden_values.nhwc(arrays["in/x"]))
    assert ours.dtype == jnp.float32
    assert golden_values.relative_error(ours, mean) < 3e-2
    assert golden_values.relative_error(decode(params, mean), decoded) < 3e-2
