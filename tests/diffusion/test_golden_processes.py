"""Losses, features and samples of the published code, under its small network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion import samplers
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.models.unet import UNet
from ddae_jax.weights import torch_layout
from ddae_jax.weights import unet as unet_weights
from tests.tools import golden_values

NETWORK = UNet(
    image_channels=3,
    channels=32,
    channel_multipliers=(1, 2),
    attention=(False, True),
    blocks=1,
    dropout=0.0,
)
TAPS = ["out_1", "out_2", "out_3", "out_4"]


@functools.cache
def official(name):
    """Parameters, and the arrays with images moved to NHWC."""
    meta, arrays = golden_values.load(name)
    arrays = {
        key: golden_values.nhwc(value)
        if value.ndim >= 4 and value.shape[-1] > 1
        else value
        for key, value in arrays.items()
    }
    shape = arrays["in/x_T"].shape[1:]
    shapes = jax.eval_shape(
        lambda key: Denoiser(NETWORK, DDPM()).init(key, shape), jax.random.key(0)
    )
    params = torch_layout.from_torch(
        golden_values.state(meta), unet_weights.names(NETWORK), shapes
    )
    return params, arrays


def assert_close(ours, theirs, tolerance):
    assert golden_values.relative_error(ours, theirs) < tolerance


@functools.partial(jax.jit, static_argnums=0)
def features(denoiser, params, x0, noise, time):
    """Pooled taps of noisy images, all at one time."""
    time = jnp.full(len(x0), time)
    x_t = denoiser.process.add_noise(x0, noise, time)
    taps = denoiser.taps(params, x_t, time, TAPS)
    return {name: tap.mean((1, 2)) for name, tap in taps.items()}


def test_ddpm_loss_and_features():
    params, golden = official("process_ddpm")
    denoiser = Denoiser(NETWORK, DDPM())
    x0, noise = 2 * golden["in/image01"] - 1, jnp.asarray(golden["in/noise"])
    time = golden["in/t"].astype(np.float32)
    loss = jax.jit(denoiser.loss)(params, x0, noise, time)
    assert_close(loss.mean(), golden["out/loss"], 1e-5)
    time = denoiser.process.official_time(11)
    for name, feature in features(denoiser, params, x0, noise, time).items():
        assert_close(feature, golden[f"feature_t11/{name}"], 1e-5)
        unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
        assert_close(unit, golden[f"feature_t11_unit/{name}"], 1e-5)


def test_edm_loss_and_features():
    params, golden = official("process_edm")
    process = EDM()
    denoiser = Denoiser(NETWORK, process)
    x0, noise = 2 * golden["in/image01"] - 1, jnp.asarray(golden["in/noise"])
    draw = golden["in/rnd_normal"].reshape(-1)
    sigma = jnp.exp(process.p_std * draw + process.p_mean)
    loss = jax.jit(denoiser.loss)(params, x0, noise, sigma)
    assert_close(loss.mean(), golden["out/loss"], 1e-5)
    for index in (3, 4, 5):
        time = process.official_time(index)
        for name, feature in features(denoiser, params, x0, noise, time).items():
            assert_close(feature, golden[f"feature_t{index}/{name}"], 1e-5)


def sample(process, sampler, arrays, params, **options):
    """Runs a sampler from the golden start with the golden noises; in [0, 1]."""
    denoiser = Denoiser(NETWORK, process)

    @jax.jit
    def run(params, noise, noises):
        return sampler(
            lambda x_t, time: denoiser.x0(params, x_t, time),
            process,
            noise,
            lambda step: noises[step],
            **options,
        )

    return (run(params, arrays["in/x_T"], arrays["in/z"]) + 1) / 2


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(eta):
    params, golden = official("process_ddpm")
    ours = sample(DDPM(), samplers.ddim, golden, params, steps=10, eta=eta)
    assert_close(ours, golden[f"out/ddim10_eta{eta:.0f}"], 1e-4)


def test_ancestral():
    params, golden = official("process_ddpm")
    ours = sample(DDPM(timesteps=20), samplers.ddpm_ancestral, golden, params)
    assert_close(ours, golden["out/ancestral_T20"], 1e-4)


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_heun(churn):
    params, golden = official("process_edm")
    ours = sample(EDM(), samplers.edm_heun, golden, params, steps=18, churn=churn)
    assert_close(ours, golden[f"out/heun18_eta{churn:.0f}"], 1e-4)
