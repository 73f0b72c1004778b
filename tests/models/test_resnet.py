"""ResNet against PyTorch, in both modes, and its input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.models.batch_norm import RunningBatchNorm
from ddae_jax.models.imagenet_input import imagenet_input
from ddae_jax.models.resnet import ResNet
from ddae_jax.weights import resnet as resnet_weights
from ddae_jax.weights import torch_layout
from tests.tools import golden_values
from tests.tools.inception_state import inception_state

META, ARRAYS = golden_values.load("resnet_small")


def small(last_stride=2, dtype=jnp.float32):
    return ResNet(tuple(META["blocks"]), META["width"], last_stride, dtype)


def published(network):
    return resnet_weights.variables_from_torch(network, inception_state(META))


@pytest.mark.slow
def test_the_golden_file_is_what_pytorch_computes():
    pytest.importorskip("torch", reason="torch is the reference here")
    from tests.tools import torch_resnet

    assert torch_resnet.spec() == META["spec"]
    again = torch_resnet.arrays()
    assert again.keys() == ARRAYS.keys()
    for name, array in again.items():
        assert golden_values.relative_error(ARRAYS[name], array) < 1e-5, name


@pytest.mark.parametrize("last_stride", [1, 2])
def test_maps_and_statistics_are_those_of_pytorch(last_stride):
    network = small(last_stride)
    variables = published(network)
    images = golden_values.nhwc(ARRAYS["in/images"])

    @jax.jit
    def both(variables, images):
        trained = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return network.apply(variables, images, train=False), *trained

    evaluated, trained, changed = both(variables, images)
    for mode, ours in (("eval", evaluated), ("train", trained)):
        theirs = golden_values.nhwc(ARRAYS[f"out/{mode}_{last_stride}"])
        assert theirs.shape[-1] == network.features
        assert golden_values.relative_error(ours, theirs) < 1e-5
    after = torch_layout.to_torch(
        {"params": variables["params"], **changed}, resnet_weights.names(network)
    )
    checked = 0
    for name in META["spec"]:
        if "running" in name and last_stride == 2:
            theirs = ARRAYS[f"stats/{name}"]
            assert golden_values.relative_error(after[name], theirs) < 1e-5, name
            checked += 1
    assert checked == (0 if last_stride == 1 else 2 * 20)


@pytest.mark.parametrize("last_stride, shape", [(1, (16, 8)), (2, (8, 4))])
def test_resnet_50_has_its_published_size(last_stride, shape):
    network = ResNet(last_stride=last_stride)
    images = jnp.zeros((2, 256, 128, 3))
    feature_map, variables = jax.eval_shape(
        lambda key: network.init_with_output(key, images, train=False),
        jax.random.key(0),
    )
    assert feature_map.shape == (2, *shape, 2048) and network.features == 2048
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    # torchvision counts 25,557,032 with the classifier of 1000 classes.
    assert count == 25_557_032 - 2049 * 1000


def test_statistics_are_float32_in_lower_precision():
    network = small(dtype=jnp.bfloat16)
    images = golden_values.nhwc(ARRAYS["in/images"])
    feature_map, variables = jax.eval_shape(
        lambda key: network.init_with_output(key, images, train=True),
        jax.random.key(0),
    )
    assert feature_map.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    # Far from 0, a mean square in bfloat16 would lose the variance.
    x = jnp.asarray(20 + images, jnp.bfloat16)
    norm = RunningBatchNorm()
    normal, changed = norm.apply(
        norm.init(jax.random.key(0), x, train=False),
        x,
        train=True,
        mutable=["batch_stats"],
    )
    assert normal.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64).reshape(-1, 3)
    after = changed["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.1 * exact.mean(0), rtol=1e-5)
    wanted = 0.9 + 0.1 * exact.var(0, ddof=1)
    np.testing.assert_allclose(after["variance"], wanted, rtol=1e-4)


def test_initialisation_leaves_the_statistics_as_they_are():
    images = golden_values.nhwc(ARRAYS["in/images"])
    variables = RunningBatchNorm().init(jax.random.key(0), images, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["variance"], np.ones(3))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"blocks": ()}, r"blocks \(\) must be positive"),
        ({"blocks": (1, 0)}, r"blocks \(1, 0\) must be positive"),
        ({"width": 0}, "width 0 is not positive"),
        ({"last_stride": 3}, "last_stride 3 is not 1 or 2"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        ResNet(**fields)


def test_pixels_are_normalised_as_torchvision_does():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    wanted = (pixels / 255.0 - mean) / deviation
    ours = jax.jit(imagenet_input)(pixels)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    x0 = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
    np.testing.assert_allclose(imagenet_input(x0), wanted, atol=1e-6)
    grey = imagenet_input(pixels[..., :1])
    np.testing.assert_array_equal(grey, imagenet_input(pixels[..., [0, 0, 0]]))
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        imagenet_input(pixels[..., :2])
