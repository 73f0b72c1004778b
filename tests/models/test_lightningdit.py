"""LightningDiT against the official network: outputs, taps, counts, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models.lightningdit import PRESETS, LightningDiT
from ddae_jax.models.transformer import rotary_angles, rotate
from ddae_jax.weights import lightningdit as lightningdit_weights
from tests.tools import golden_values
from tests.tools import vision_transformers as checks

SMALL = LightningDiT(image_channels=4, hidden_size=64, depth=3, heads=4, num_classes=10)


def small():
    return checks.golden("lightningdit_small", SMALL, lightningdit_weights.names)


def test_outputs_and_taps_match_the_official_network():
    checks.check_golden("lightningdit_small", SMALL, lightningdit_weights.names)


def test_torch_round_trip_is_bitwise():
    checks.check_round_trip("lightningdit_small", SMALL, lightningdit_weights.names)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences_and_with_remat():
    params, inputs = small()
    shallow = SMALL.clone(depth=1)
    params = {key: params[key] for key in params if key not in ("block_1", "block_2")}
    checks.check_gradients(shallow, params, inputs, shallow.fixed_parameters)


def test_bfloat16_is_near_float32():
    checks.check_bfloat16(SMALL, *small())


def expected_count(hidden_size, depth, channels, patch_size, tokens):
    """Sum of the sizes of torch's tensors, written out."""
    mlp = int(2 / 3 * 4 * hidden_size)
    patch = channels * patch_size**2
    block = (
        2 * hidden_size  # norms
        + 4 * hidden_size * hidden_size
        + 4 * hidden_size  # attention
        + 2 * mlp * (hidden_size + 1)
        + (mlp + 1) * hidden_size  # SwiGLU
        + 6 * hidden_size * (hidden_size + 1)  # modulation
    )
    outside = (
        (patch + 1) * hidden_size
        + tokens * hidden_size  # positions
        + (256 + 1 + hidden_size + 1) * hidden_size  # time
        + 1001 * hidden_size  # classes
        + hidden_size
        + 2 * hidden_size * (hidden_size + 1)  # final norm, modulation
        + (hidden_size + 1) * patch
    )
    return depth * block + outside


@pytest.mark.parametrize("name", ["LightningDiT-B/1", "LightningDiT-XL/1"])
def test_parameter_counts(name):
    fields = PRESETS[name]
    count = checks.parameter_count(LightningDiT(**fields), (16, 16, 32))
    print(name, count)
    assert count == expected_count(fields["hidden_size"], fields["depth"], 32, 1, 256)


def test_no_labels_are_the_null_class_and_a_new_network_gives_zeros():
    params, (images, time, _) = small()
    null = jnp.full(len(images), SMALL.null_label)
    apply = jax.jit(SMALL.apply)
    np.testing.assert_allclose(
        apply({"params": params}, images, time),
        apply({"params": params}, images, time, null),
        rtol=1e-5,
        atol=1e-5,
    )
    network = SMALL.clone(depth=1)
    init = jax.jit(network.init_with_output)
    output, _ = init(jax.random.key(0, impl="rbg"), images, time)
    assert not output.any()


def test_attention_scores_depend_on_relative_position_only():
    query, key = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 16))
    rotation = rotary_angles((4, 5), 16)
    shape = (1, 20, 1, 16)
    queries = rotate(jnp.broadcast_to(query, shape), rotation)[0, :, 0]
    keys = rotate(jnp.broadcast_to(key, shape), rotation)[0, :, 0]
    scores = (queries @ keys.T).reshape(4, 5, 4, 5)
    np.testing.assert_allclose(scores[2, 3, 1, 1], scores[1, 2, 0, 0], rtol=1e-4)
    assert abs(scores[2, 3, 1, 1] - scores[2, 3, 2, 1]) > 1e-3


def test_the_network_is_inferred_from_its_tensors():
    meta, _ = golden_values.load("lightningdit_small")
    state = {key: np.zeros(shape, "int8") for key, shape in meta["spec"].items()}
    tables = lightningdit_weights.buffers(SMALL, (8, 8, 4))
    assert {name: table.shape for name, table in tables.items()} == {
        "feat_rope.freqs_cos": (64, 16),
        "feat_rope.freqs_sin": (64, 16),
    }
    assert lightningdit_weights.without_buffers(state | tables) == state
    assert lightningdit_weights.network_from_state(state | tables, heads=4) == SMALL
    assert lightningdit_weights.image_shape(state) == (8, 8, 4)
    with pytest.raises(UserError, match="give heads"):
        lightningdit_weights.network_from_state(state)
    with pytest.raises(UserError, match="use_qknorm"):
        lightningdit_weights.network_from_state(
            state | {"blocks.0.attn.q_norm.weight": np.zeros(16)}, 4
        )


def test_labels_that_do_not_fit_are_refused():
    params, (images, time, _) = small()
    with pytest.raises(UserError, match="augmentation labels"):
        SMALL.apply({"params": params}, images, time, None, jnp.zeros((2, 9)))
    with pytest.raises(UserError, match="needs a multiple of 4"):
        rotary_angles((2, 2), 6)
