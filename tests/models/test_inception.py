"""Inception-v3 of the FID graph: golden features, published resizing, its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models import inception, inception_input
from ddae_jax.weights.inception import params_from_torch
from tests.tools import golden_values
from tests.tools.inception_state import inception_state

META, ARRAYS = golden_values.load("inception_fid")


@pytest.fixture(scope="module")
def state():
    return inception_state(META)


@pytest.mark.slow
def test_features_maps_and_logits_match_the_published_network(state):
    params = params_from_torch(state)
    images = 255 * golden_values.nhwc(ARRAYS["in/x01"])
    maps = {"Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_6e"}

    @jax.jit
    def run(params, images):
        outputs = inception_input.inception_outputs(params, images, "pytorch", 1)
        _, captured = inception.InceptionV3().apply(
            {"params": params},
            inception_input.inception_input(images, "pytorch"),
            capture_intermediates=lambda module, _: module.name in maps,
            mutable="intermediates",
        )
        return outputs, captured["intermediates"]

    outputs, captured = run(params, images)
    golden = ARRAYS["out/pool3_2048"]
    assert golden_values.relative_error(outputs.features, golden) < 1e-4

    for key, name in [
        ("gap/block0_64", "Conv2d_2b_3x3"),
        ("gap/block1_192", "Conv2d_4a_3x3"),
    ]:
        pooled = inception.max_pool(jax.nn.relu(captured[name]["__call__"][0]), 2)
        assert golden_values.relative_error(pooled.mean((1, 2)), ARRAYS[key]) < 1e-5
    block2 = captured["Mixed_6e"]["__call__"][0].mean((1, 2))
    assert golden_values.relative_error(block2, ARRAYS["gap/block2_768"]) < 1e-5

    score_logits = golden @ state["fc.weight"].T
    assert golden_values.relative_error(outputs.score_logits, score_logits) < 1e-4
    logits = score_logits + state["fc.bias"]
    assert golden_values.relative_error(outputs.logits, logits) < 1e-4


def test_parameters_fit_the_network_and_are_as_many_as_published(state):
    image = jnp.zeros((1, 299, 299, 3))
    shapes = jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), image)
    params = params_from_torch(state)
    ours = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes["params"])
    assert ours == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)

    # Folding leaves one bias of a normalisation's scale, shift, mean and variance.
    folded = 3 * sum(
        array.size for name, array in state.items() if name.endswith("running_mean")
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count + folded == META["parameters"]


def test_tensors_that_do_not_fit_are_listed(state):
    state = dict(state)
    counter = "Mixed_5b.branch1x1.bn.num_batches_tracked"
    params_from_torch({**state, counter: np.zeros((), int)})
    state["renamed.weight"] = state.pop("Mixed_5b.branch1x1.conv.weight")
    state["fc.bias"] = np.zeros(1000)
    with pytest.raises(UserError) as raised:
        params_from_torch(state)
    message = str(raised.value)
    for part in [
        "missing: Mixed_5b.branch1x1.conv.weight",
        "surplus: renamed.weight",
        "misshapen: fc.bias (1000,), not (1008,)",
    ]:
        assert part in message
    assert "\n" not in message


def test_average_pool_leaves_the_padding_out():
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype("f")
    ours = inception.average_pool(jnp.asarray(x))
    for row in range(5):
        for column in range(4):
            window = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            np.testing.assert_allclose(
                ours[:, row, column], window.mean((1, 2)), rtol=1e-5, atol=1e-6
            )


def random_images(height, width, channels=3):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (2, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("height, width", [(32, 28), (400, 512)])
def test_pytorch_mode_is_bilinear_with_half_pixel_centres(height, width):
    images = random_images(height, width)
    expected = jax.image.resize(
        images.astype("f"), (2, 299, 299, 3), "bilinear", antialias=False
    )
    ours = inception_input.inception_input(jnp.asarray(images), "pytorch")
    # The reference computes positions in float32, which is worth 5e-5 at this size.
    np.testing.assert_allclose(ours, expected / 127.5 - 1, atol=1e-4)


@pytest.mark.parametrize("size", [32, 400])
def test_tf1_mode_has_no_half_pixel_centres(size):
    images = random_images(size, size)
    place = np.arange(299) * size / 299
    low = place.astype(int)
    high = np.minimum(low + 1, size - 1)
    part = place - low

    rows = images.astype("d")
    rows = (
        rows[:, low] * (1 - part)[:, None, None] + rows[:, high] * part[:, None, None]
    )
    expected = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, high] * part[:, None]
    ours = inception_input.inception_input(jnp.asarray(images), "tf1")
    np.testing.assert_allclose(ours, (expected - 128) / 128, atol=2e-5)


@pytest.mark.parametrize("height, width", [(32, 28), (400, 512), (299, 64)])
def test_clean_mode_is_pillows_bicubic(height, width):
    images = random_images(height, width)
    expected = np.empty((2, 299, 299, 3), "f")
    for image, out in zip(images, expected, strict=True):
        for channel in range(3):
            plane = PIL.Image.fromarray(image[..., channel].astype("f"))
            resized = plane.resize((299, 299), PIL.Image.Resampling.BICUBIC)
            out[..., channel] = np.clip(np.asarray(resized), 0, 255)
    ours = inception_input.inception_input(jnp.asarray(images), "clean")
    np.testing.assert_allclose(ours, (expected - 128) / 128, atol=2e-5)


def test_grey_images_are_repeated_and_full_size_is_left_alone():
    grey = jnp.asarray(random_images(299, 299, 1))
    for mode in inception_input.MODES:
        ours = inception_input.inception_input(grey, mode)
        scaled = grey / 127.5 - 1 if mode == "pytorch" else (grey - 128.0) / 128
        np.testing.assert_allclose(ours, np.repeat(scaled, 3, -1), atol=1e-6)


def test_unknown_modes_and_channels_are_refused():
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(UserError, match="'lanczos' is unknown; known: pytorch, tf1"):
        inception_input.inception_input(images, "lanczos")
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        inception_input.inception_input(jnp.zeros((1, 8, 8, 4)), "tf1")
