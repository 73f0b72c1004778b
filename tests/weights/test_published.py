"""State dicts of the published code: what it loads strictly goes out, and comes in."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.models.wideresnet import WideResNet
from ddae_jax.weights import families, folder, published
from tests.tools import golden_networks, golden_values
from tests.tools.golden_networks import GOLDEN
from tests.tools.networks import random_params, shapes_of


def shapes(network, image_shape):
    inputs = (jnp.zeros((1, *image_shape)), jnp.ones(1))
    count = 1 if isinstance(network, AutoencoderKL) else 2
    return jax.eval_shape(network.init, jax.random.key(0), *inputs[:count])["params"]


@pytest.mark.parametrize("name", GOLDEN)
def test_what_goes_out_is_the_published_state_dict(name, tmp_path):
    meta, _ = golden_values.load(name)
    network, state = golden_networks.network_of(name)
    image_shape = golden_networks.image_shape(name, network)
    tree = shapes(network, image_shape)
    params = published.to_parameters(network, state, tree)
    folder.write_published(tmp_path, network, params, image_shape)

    # Names and shapes are what strict loading asks for.
    found = folder.read_tensors(tmp_path / folder.FILE)
    wanted = meta["spec"] | GOLDEN[name].buffers
    assert {key: array.shape for key, array in found.items()} == {
        key: tuple(shape) for key, shape in wanted.items()
    }
    golden_networks.check_same({key: found[key] for key in state}, state)
    with safetensors.safe_open(tmp_path / folder.FILE, "np") as opened:
        assert opened.metadata() == {"format": "pt"}

    # The same parameters come back, by the names alone.
    again = folder.read_parameters(tmp_path, tree)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_published_class_and_its_arguments(name):
    meta, _ = golden_values.load(name)
    network, _ = golden_networks.network_of(name)
    image_shape = golden_networks.image_shape(name, network)
    found = published.published_class(network, image_shape)
    wanted = dict(meta["kwargs"])
    wanted.pop("dropout", None)  # no tensor shows it
    assert {key: found.arguments[key] for key in wanted} == wanted
    written = ast.parse(str(found), mode="eval").body
    assert {word.arg: ast.literal_eval(word.value) for word in written.keywords} == (
        found.arguments
    )


def test_the_constants_of_the_published_code():
    network, state = golden_networks.network_of("edm_ncsnpp_small")
    complete = families.FAMILIES["songunet"].complete(state, network, (16, 16, 3))
    for key in complete.keys() - state.keys():
        assert complete[key].dtype == np.float32
        row = np.array([1, 3, 3, 1], np.float32) / 8
        np.testing.assert_array_equal(complete[key][0, 0], np.outer(row, row))
    # Angles of the rotary positions: row, then column, times a falling frequency.
    network, state = golden_networks.network_of("lightningdit_small")
    complete = families.FAMILIES["lightningdit"].complete(state, network, (8, 8, 4))
    frequencies = np.repeat(10_000.0 ** (-np.arange(4) / 4), 2)
    token = 3 * 8 + 5
    angles = np.concatenate([3 * frequencies, 5 * frequencies])
    for key, function in (("cos", np.cos), ("sin", np.sin)):
        found = complete[f"feat_rope.freqs_{key}"]
        np.testing.assert_allclose(found[token], function(angles), atol=1e-6)


def test_the_uncertainty_is_beside_the_network_in_the_published_module():
    network = EDM2UNet(weight_normalization=True, uncertainty=True).tiny()
    params = random_params(network, (8, 8, 3))
    state = published.to_state(network, params, (8, 8, 3))
    assert {name.split(".")[0] for name in state} == {"nn_model", "reweight_mlp"}
    assert "nn_model.image_proj.weight" in state
    found = published.published_class(network, (8, 8, 3))
    assert str(found).startswith("EDM(UNetE(image_shape=[3, 8, 8], ")
    shapes = shapes_of(network, (8, 8, 3))
    for again in (
        published.to_parameters(network, state, shapes),
        published.to_parameters_of_shapes(state, shapes),
    ):
        jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("features", [1, 64, 100, 171, 2048, 3072])
@pytest.mark.parametrize("hidden_size", [64, 384, 1152])
def test_lightningdits_ratio_gives_the_width_of_its_mlp(features, hidden_size):
    network = LightningDiT(hidden_size=hidden_size, mlp_features=features)
    arguments = published.published_class(network, (16, 16, 32)).arguments
    assert int(2 / 3 * int(hidden_size * arguments["mlp_ratio"])) == features


@pytest.mark.parametrize("name", ["unet", "songunet", "uvit", "dit", "lightningdit"])
def test_what_the_published_code_does_not_know_is_not_left_out(name):
    settings = SelfConditioning("default")
    network = NETWORKS[name](image_channels=3, self_condition=settings).tiny()
    params = random_params(network, (8, 8, 3))
    with pytest.raises(UserError, match="no such parameters: self_condition/projec"):
        published.to_state(network, params, (8, 8, 3))


def test_networks_without_a_published_form():
    with pytest.raises(UserError, match="WideResNet has no published form"):
        published.to_state(WideResNet(10), {}, (8, 8, 3))
