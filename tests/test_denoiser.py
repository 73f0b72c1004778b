"""The denoiser: outputs, losses and taps of every kind of network and process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.learned_variance import LearnedVarianceDDPM
from ddae_jax.errors import UserError
from ddae_jax.experiment import memory
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT
from ddae_jax.tasks.pretrain import overhead
from tests.tools import networks as tools

SHAPE = (2, 8, 8, 3)
IMAGES, NOISE = jax.random.normal(jax.random.key(0), (2, *SHAPE))
TIME = jnp.array([0.5, 3.0])


@pytest.mark.parametrize(
    "network, given",
    [
        (UNet(image_channels=1).tiny(), 3),
        (UNet(image_channels=3).tiny(), 1),
        (DiT(image_channels=4).tiny(), 3),
    ],
)
def test_images_of_other_channels_are_refused(network, given):
    """They would broadcast, and train to a loss that means nothing."""
    process = LearnedVarianceDDPM() if network.learned_variance else DDPM()
    denoiser = Denoiser(network, process)
    own = (8, 8, network.image_channels)
    params = denoiser.parameter_shapes(own)
    images = jnp.zeros((2, 8, 8, given))
    message = f"takes {network.image_channels} channels .*, the images have {given}"
    with pytest.raises(UserError, match=message):
        jax.eval_shape(denoiser.loss, params, images, images, TIME)
    with pytest.raises(UserError, match=message):
        denoiser.parameter_shapes((8, 8, given))


class Grey(UNet):
    """A network that gives one channel whatever it is given."""

    def __call__(self, images, time, labels=None, augment_labels=None, train=False):
        output = super().__call__(images, time, labels, augment_labels, train)
        return output[..., :1]


@pytest.mark.parametrize(
    "network, process, message",
    [
        (Grey().tiny(), DDPM(), r"makes \(8, 8, 1\) of images \(8, 8, 3\)"),
        (DiT().tiny(), DDPM(), r"\(8, 8, 6\) .* the process needs \(8, 8, 3\)"),
        (UNet().tiny(), LearnedVarianceDDPM(), r"needs \(8, 8, 6\)"),
    ],
)
def test_an_output_of_another_shape_is_refused(network, process, message):
    denoiser = Denoiser(network, process)
    params = denoiser.parameter_shapes(SHAPE[1:])
    for run, inputs in (
        (denoiser.loss, (IMAGES, NOISE, TIME)),
        (denoiser.x0, (IMAGES, TIME)),
    ):
        with pytest.raises(UserError, match=message) as raised:
            jax.eval_shape(run, params, *inputs)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_learned_log_variance_weights_the_loss():
    network = EDM2UNet(weight_normalization=True).tiny()
    denoiser, plain = (
        Denoiser(network.clone(uncertainty=learned), EDM()) for learned in (True, False)
    )
    params = tools.random_params(network, SHAPE[1:])
    rest = {key: value for key, value in params.items() if key != "loss_uncertainty"}
    losses = jax.jit(denoiser.loss)(params, IMAGES, NOISE, TIME)
    unweighted = jax.jit(plain.loss)(rest, IMAGES, NOISE, TIME)
    u = network.apply({"params": params}, jnp.log(TIME) / 4, method="log_variance")
    np.testing.assert_allclose(losses, unweighted / np.exp(u) + u, rtol=1e-4)
    assert np.ptp(u) > 0


@pytest.mark.slow
def test_new_parameters_are_projected_already():
    denoiser = Denoiser(EDM2UNet(weight_normalization=True).tiny(), EDM())
    key = jax.random.key(0, impl="rbg")  # compiles fast
    params = jax.jit(denoiser.init, static_argnums=1)(key, SHAPE[1:])
    projected = jax.jit(denoiser.network.project)(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), params, projected
    )


def test_parameters_that_never_change_are_not_counted():
    denoiser = Denoiser(DiT().tiny(), LearnedVarianceDDPM())
    shapes = denoiser.parameter_shapes(SHAPE[1:])
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    fixed = shapes["positions"]["table"].size
    assert denoiser.parameter_count(SHAPE[1:]) == total - fixed


def test_taps_are_those_of_the_network_and_named_ones_alone():
    denoiser = Denoiser(UNet().tiny(), DDPM())
    params = tools.random_params(denoiser.network, SHAPE[1:])

    @jax.jit
    def run(params):
        wanted = denoiser.taps(params, IMAGES, TIME, ["out_3", "out_1"])
        inputs = denoiser.process.network_inputs(IMAGES, TIME)
        _, every = tools.taps_of(denoiser.network, params, *inputs)
        return wanted, every

    wanted, every = run(params)
    assert wanted.keys() == {"out_1", "out_3"} < every.keys()
    for name, tap in wanted.items():
        np.testing.assert_allclose(tap, every[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="no tap 'out_9'; known: out_1, out_2"):
        denoiser.taps(params, IMAGES, TIME, ["out_9"])


def test_a_dropout_key_means_training():
    denoiser = Denoiser(UNet().tiny().clone(dropout=0.5), DDPM())
    params = tools.random_params(denoiser.network, SHAPE[1:])
    run = jax.jit(
        lambda params, key: denoiser.taps(
            params, IMAGES, TIME, ["out_1"], dropout_key=key
        )["out_1"]
    )
    one, other = (run(params, jax.random.key(seed)) for seed in (0, 1))
    assert np.any(np.asarray(one != other))
    output = jax.jit(denoiser.output)
    plain = output(params, IMAGES, TIME)
    trained = output(params, IMAGES, TIME, dropout_key=jax.random.key(0))
    assert np.any(np.asarray(plain != trained))


def test_a_network_that_needs_classes_is_described_without_any():
    section = SelfConditioning(tap="block_1")
    network = UViT(num_classes=3, null_class=False, self_condition=section).tiny()
    denoiser = Denoiser(network, DDPM())
    shape = (8, 8, 3)
    assert denoiser.tap_shapes(shape, ["block_1"])["block_1"].shape[0] == 1
    used = denoiser.used_parameters(shape, "block_0")
    assert any("label" in path for path in used)
    assert not any("block_2" in path for path in used)
    assert min(memory.training_bytes(denoiser, shape, 2)) > 0
    assert "self-conditioning by" in overhead.of_self_conditioning(denoiser, shape)
