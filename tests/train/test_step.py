"""The training recipe against the official one: losses, gradients, weights, EMA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.step import TrainStep, noise_level_names
from ddae_jax.weights import torch_layout
from ddae_jax.weights import unet as unet_weights
from tests.tools import golden_values
from tests.tools.unet_golden import network_of, params_of


def edm_times(normal):
    return jnp.exp(1.2 * normal.reshape(-1) - 1.2)


@pytest.mark.parametrize("name, process", [("ddpm", DDPM()), ("edm", EDM())])
def test_eight_optimiser_steps_match_the_official_recipe(name, process):
    meta, arrays = golden_values.load(f"training_{name}")
    network = network_of(meta["network"])
    denoiser = Denoiser(network, process)
    rates = jnp.array(arrays["in/lr"])
    optimizer = optimizers.Adam(lambda step: rates[step])
    step = TrainStep(denoiser, optimizer, meta["ema_beta"], ema_warmup=False)
    params = jax.tree.map(jnp.array, params_of(network, meta, (16, 16, 3)))
    state = train_state.TrainState(jnp.int32(0), params, params, optimizer.init(params))
    optimise = jax.jit(step.optimise)
    for i in range(len(rates)):
        x0 = 2 * golden_values.nhwc(arrays["in/images01"][i]) - 1
        noise = golden_values.nhwc(arrays["in/noise"][i])
        if name == "ddpm":
            time = jnp.array(arrays["in/t"][i], jnp.float32)
        else:
            time = edm_times(arrays["in/rnd_normal"][i])
        state, metrics = optimise(state, x0, noise, time)
        loss, norm = (metrics[name].compute() for name in ("loss", "gradient_norm"))
        np.testing.assert_allclose(loss, arrays["out/losses"][i], rtol=1e-4)
        np.testing.assert_allclose(norm, arrays["out/grad_norms"][i], rtol=1e-4)
        groups = [metrics[f"loss/{group}"] for group in noise_level_names()]
        assert sum(group.count for group in groups) == len(time)
        total = sum(group.total for group in groups)
        np.testing.assert_allclose(total / len(time), loss, rtol=1e-5)
    names = unet_weights.names(network)
    ours = {
        "param": torch_layout.to_torch(state.params, names),
        "ema": torch_layout.to_torch(state.ema, names),
    }
    checked = [key for key in arrays if key.startswith(("param/", "ema/"))]
    assert len(checked) == 10
    for key in checked:
        kind, tensor = key.split("/")
        assert golden_values.relative_error(ours[kind][tensor], arrays[key]) < 1e-4, key


def test_the_ema_follows_the_law_of_ema_pytorch():
    meta, arrays = golden_values.load("ema")
    ema = np.zeros((3, 4), np.float32)
    for i, params in enumerate(arrays["params"]):
        decay = train_state.ema_decay(jnp.int32(i), 0.9, warmup=True)
        ema = decay * ema + (1 - decay) * params
        np.testing.assert_allclose(ema, arrays["ema"][i], atol=1e-6)
    for step, decay in meta["decay_at_step_for_beta_0.9999"].items():
        # the file counts updates done, so its step n is our n - 1
        ours = train_state.ema_decay(jnp.int32(int(step) - 1), 0.9999, warmup=True)
        np.testing.assert_allclose(ours, decay, atol=2e-6)


def test_warm_up_is_linear_then_constant():
    schedule = optimizers.Warmup(0.4, 4)
    rates = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_the_rate_falls_with_the_square_root_of_the_step():
    schedule = optimizers.Warmup(0.4, 4, decay_from=8)
    rates = [float(schedule(step)) for step in (0, 3, 8, 32, 72)]
    np.testing.assert_allclose(rates, [0.1, 0.4, 0.4, 0.2, 0.4 / 3], rtol=1e-6)


def test_weight_decay_pulls_all_parameters_towards_zero():
    params = {"kernel": jnp.array([2.0, -4.0])}
    gradient = {"kernel": jnp.zeros(2)}
    optimizer = optimizers.Adam(0.1, weight_decay=0.03, clip_norm=float("inf"))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-0.006, 0.012], rtol=1e-6)


def test_constant_ema_decay():
    assert train_state.ema_decay(jnp.int32(0), 0.99, warmup=False) == np.float32(0.99)


def test_the_rate_falls_once_an_epoch_to_zero():
    schedule = optimizers.CosineAfterWarmup(4e-3, 15, 0, 10, 40)
    rates = np.array([float(schedule(step)) for step in range(61)])
    epochs = 2e-3 * (1 + np.cos(np.pi * np.arange(16) / 15))
    np.testing.assert_allclose(rates[:60], np.repeat(epochs[:15], 4), atol=1e-8)
    assert rates[60] == pytest.approx(0, abs=1e-8)
