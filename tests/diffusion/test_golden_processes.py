"""Losses, features and samples of the published code, under its small network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.ddpm_samplers import DDIM, DDPMAncestral
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.edm_sampler import EDMHeun
from tests.tools import golden_values
from tests.tools.golden_processes import NETWORK, TAPS, official


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


def sample(process, sampler, arrays, params):
    """Runs a sampler from the golden start with the golden noises; in [0, 1]."""
    denoiser = Denoiser(NETWORK, process)

    @jax.jit
    def run(params, noise, noises):
        return sampler(
            lambda x_t, time: denoiser.x0(params, x_t, time),
            process,
            noise,
            lambda step: noises[step],
        )

    return (run(params, arrays["in/x_T"], arrays["in/z"]) + 1) / 2


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(eta):
    params, golden = official("process_ddpm")
    ours = sample(DDPM(), DDIM(steps=10, eta=eta), golden, params)
    assert_close(ours, golden[f"out/ddim10_eta{eta:.0f}"], 1e-4)


def test_ancestral():
    params, golden = official("process_ddpm")
    ours = sample(DDPM(timesteps=20), DDPMAncestral(), golden, params)
    assert_close(ours, golden["out/ancestral_T20"], 1e-4)


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_heun(churn):
    params, golden = official("process_edm")
    ours = sample(EDM(), EDMHeun(steps=18, churn=churn), golden, params)
    assert_close(ours, golden[f"out/heun18_eta{churn:.0f}"], 1e-4)
