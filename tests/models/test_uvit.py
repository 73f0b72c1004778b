"""U-ViT against the official network: outputs, taps, parameter counts, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models.uvit import PRESETS, UViT
from ddae_jax.weights import uvit as uvit_weights
from tests.tools import golden_values
from tests.tools import vision_transformers as checks

SMALL = UViT(image_channels=3, hidden_size=64, depth=4, heads=4)
CONDITIONAL = SMALL.clone(patch_size=4, num_classes=10, time_mlp=True)
NETWORKS = {"uvit_small": SMALL, "uvit_small_cond": CONDITIONAL}


def small(name="uvit_small"):
    return checks.golden(name, NETWORKS[name], uvit_weights.names)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_taps_match_the_official_network(name):
    checks.check_golden(name, NETWORKS[name], uvit_weights.names)


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_round_trip_is_bitwise(name):
    checks.check_round_trip(name, NETWORKS[name], uvit_weights.names)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences_and_with_remat():
    params, inputs = small("uvit_small_cond")
    shallow = params | {"block_1": params["block_2"], "block_2": params["block_3"]}
    checks.check_gradients(CONDITIONAL.clone(depth=2), shallow, inputs)


def test_bfloat16_is_near_float32():
    checks.check_bfloat16(SMALL, *small())


def test_parameter_counts():
    small = UViT(image_channels=3, **PRESETS["U-ViT-S/2"])
    assert checks.parameter_count(small, (32, 32, 3)) == 44_255_328
    # the tensors of a published name show all of it
    shapes = checks.parameter_shapes(small, (32, 32, 3))
    state = {}
    for name, entry in uvit_weights.names(small).items():
        leaf = shapes
        for part in entry.path:
            leaf = leaf[part]
        order = {"linear": (1, 0), "conv": (3, 2, 0, 1)}.get(entry.layout)
        shape = leaf.shape if order is None else [leaf.shape[i] for i in order]
        state[name] = np.zeros(shape, "int8")
    assert uvit_weights.network_from_state(state) == small
    assert uvit_weights.image_shape(state) == (32, 32, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_inferred_from_its_tensors(name):
    meta, _ = golden_values.load(name)
    state = {key: np.zeros(shape, "int8") for key, shape in meta["spec"].items()}
    network = NETWORKS[name]
    labels = {"null_class": False} if network.num_classes else {}
    assert uvit_weights.network_from_state(state, 4, **labels) == network
    assert uvit_weights.image_shape(state) == (16, 16, 3)
    with pytest.raises(UserError, match="give heads"):
        uvit_weights.network_from_state(state, **labels)
    if labels:
        with pytest.raises(UserError, match="give null_class"):
            uvit_weights.network_from_state(state, 4)
        with_null = uvit_weights.network_from_state(state, 4, null_class=True)
        assert (with_null.num_classes, with_null.null_label) == (9, 9)
    else:
        with pytest.raises(UserError, match="have no label table"):
            uvit_weights.network_from_state(state, 4, null_class=True)


def test_labels():
    params, (images, time, labels) = small("uvit_small_cond")
    variables = {"params": params}
    with pytest.raises(UserError, match="give it class labels"):
        CONDITIONAL.apply(variables, images, time)
    with_null = CONDITIONAL.clone(num_classes=9, null_class=True)
    assert (with_null.label_rows, with_null.null_label) == (10, 9)
    apply = jax.jit(with_null.apply)
    np.testing.assert_allclose(
        apply(variables, images, time),
        apply(variables, images, time, jnp.full(2, 9)),
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="takes no class labels"):
        SMALL.apply({"params": small()[0]}, images, time, labels)
    with pytest.raises(UserError, match="augmentation labels"):
        SMALL.apply({"params": small()[0]}, images, time, None, jnp.zeros((2, 9)))


def test_extra_tokens_are_those_beside_the_images():
    assert (SMALL.extra_tokens, CONDITIONAL.extra_tokens) == (1, 2)
    for name, network in NETWORKS.items():
        params, (images, _, _) = small(name)
        tokens = params["positions"]["table"].shape[1]
        image_tokens = (images.shape[1] // network.patch_size) ** 2
        assert tokens == network.extra_tokens + image_tokens


def test_the_time_is_scaled():
    params, (images, time, _) = small()
    scaled = SMALL.clone(time_scale=1000.0)
    np.testing.assert_allclose(
        jax.jit(SMALL.apply)({"params": params}, images, time),
        jax.jit(scaled.apply)({"params": params}, images, time / 1000),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_new_conditional_network_needs_no_labels():
    shapes = checks.parameter_shapes(CONDITIONAL, (8, 8, 3))
    assert shapes["label"]["embedding"].shape == (10, 64)
    assert shapes["positions"]["table"].shape == (1, 2 + 4, 64)
