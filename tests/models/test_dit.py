"""DiT against the official network: outputs, taps, parameter counts, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models.dit import PRESETS, DiT
from ddae_jax.models.transformer import patchify, sincos_positions, unpatchify
from ddae_jax.weights import dit as dit_weights
from tests.tools import golden_values
from tests.tools import vision_transformers as checks

SMALL = DiT(image_channels=4, hidden_size=64, depth=3, heads=4, num_classes=10)


def small():
    return checks.golden("dit_small", SMALL, dit_weights.names)


def test_outputs_and_taps_match_the_official_network():
    checks.check_golden("dit_small", SMALL, dit_weights.names)


def test_torch_round_trip_is_bitwise():
    checks.check_round_trip("dit_small", SMALL, dit_weights.names)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences_and_with_remat():
    params, inputs = small()
    shallow = SMALL.clone(depth=1)
    params = {key: params[key] for key in params if key not in ("block_1", "block_2")}
    checks.check_gradients(shallow, params, inputs, shallow.fixed_parameters)


def test_bfloat16_is_near_float32():
    checks.check_bfloat16(SMALL, *small())


@pytest.mark.parametrize(
    "name, count",
    # positions included, as DiT's own training script counts
    [
        ("DiT-S/2", 32_963_360),
        ("DiT-B/2", 130_512_416),
        ("DiT-L/2", 458_102_816),
        ("DiT-XL/2", 675_129_632),
    ],
)
def test_parameter_counts(name, count):
    assert checks.parameter_count(DiT(**PRESETS[name]), (32, 32, 4)) == count


def test_no_labels_are_the_null_class():
    params, (images, time, _) = small()
    variables = {"params": params}
    null = jnp.full(len(images), SMALL.null_label)
    apply = jax.jit(SMALL.apply)
    expected = apply(variables, images, time, null)
    np.testing.assert_allclose(
        apply(variables, images, time), expected, rtol=1e-5, atol=1e-5
    )
    unconditional = SMALL.clone(num_classes=0)
    table = {"table": {"embedding": params["label"]["table"]["embedding"][-1:]}}
    np.testing.assert_allclose(
        jax.jit(unconditional.apply)(
            {"params": params | {"label": table}}, images, time
        ),
        expected,
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="takes no class labels"):
        unconditional.apply(variables, images, time, null)


def test_a_new_network_gives_zeros_and_every_block_is_the_identity():
    images, time = jax.random.normal(jax.random.key(1), (2, 8, 8, 4)), jnp.ones(2)
    network = SMALL.clone(depth=1)

    @jax.jit
    def init(images, time):
        return network.init_with_output(
            jax.random.key(0, impl="rbg"),
            images,
            time,
            capture_intermediates=True,
            mutable=["params", "intermediates"],
        )

    output, state = init(images, time)
    params, captured = state["params"], state["intermediates"]
    assert output.shape == (2, 8, 8, 8)
    assert not output.any()
    np.testing.assert_array_equal(
        captured["block_0"]["__call__"][0], captured["positions"]["__call__"][0]
    )
    np.testing.assert_array_equal(
        params["positions"]["table"][0], sincos_positions((4, 4), 64)
    )


def test_the_time_is_scaled():
    params, (images, time, labels) = small()
    scaled = SMALL.clone(time_scale=1000.0)
    np.testing.assert_allclose(
        jax.jit(SMALL.apply)({"params": params}, images, time, labels),
        jax.jit(scaled.apply)({"params": params}, images, time / 1000, labels),
        rtol=1e-3,
        atol=1e-3,
    )


def test_positions_are_sinusoids_of_the_column_then_of_the_row():
    positions = sincos_positions((2, 3), 8)
    column, row = 2, 1
    expected = [
        *np.sin([column, column / 100]),
        *np.cos([column, column / 100]),
        *np.sin([row, row / 100]),
        *np.cos([row, row / 100]),
    ]
    np.testing.assert_allclose(positions[row * 3 + column], expected, rtol=1e-6)


def test_patches_are_the_pixels_and_come_back():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], images[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patches, (2, 3), 2), images)


def test_the_network_is_inferred_from_its_tensors():
    meta, _ = golden_values.load("dit_small")
    state = {key: np.zeros(shape, "int8") for key, shape in meta["spec"].items()}
    assert dit_weights.network_from_state(state, heads=4) == SMALL
    assert dit_weights.image_shape(state) == (8, 8, 4)
    with pytest.raises(UserError, match="give heads"):
        dit_weights.network_from_state(state)
    with pytest.raises(UserError, match="heads is 5"):
        dit_weights.network_from_state(state, heads=5)
    with pytest.raises(UserError, match=r"final_layer.linear.weight is missing"):
        dit_weights.network_from_state(
            {k: v for k, v in state.items() if k != "final_layer.linear.weight"}, 4
        )


def test_a_published_size_shows_its_heads():
    network = DiT(image_channels=4, **PRESETS["DiT-S/4"])
    shapes = checks.parameter_shapes(network, (32, 32, 4))
    state = {}
    for name, entry in dit_weights.names(network).items():
        leaf = shapes
        for part in entry.path:
            leaf = leaf[part]
        shape = leaf.shape[::-1] if entry.layout == "linear" else leaf.shape
        shape = tuple(np.take(shape, [3, 2, 0, 1])) if entry.layout == "conv" else shape
        state[name] = np.zeros(shape, "int8")
    assert dit_weights.network_from_state(state) == network


def test_images_that_do_not_fit_are_refused():
    params, (_, time, _) = small()
    with pytest.raises(UserError, match="9 x 9 do not divide into patches of 2 x 2"):
        SMALL.apply({"params": params}, jnp.zeros((2, 9, 9, 4)), time)
    with pytest.raises(UserError, match="positions for 16"):
        SMALL.apply({"params": params}, jnp.zeros((2, 16, 16, 4)), time)
    with pytest.raises(UserError, match="augmentation labels"):
        SMALL.apply(
            {"params": params}, jnp.zeros((2, 8, 8, 4)), time, None, jnp.zeros((2, 9))
        )
