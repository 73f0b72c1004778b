"""The flow's loss and times, and its samplers on Gaussian data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.flow_samplers import FlowEuler, FlowHeun
from ddae_jax.diffusion.schedules import flow_times, shift_time
from ddae_jax.errors import UserError

MEAN, SPREAD = 0.3, 0.2
NOISE = jnp.linspace(-2, 2, 9)[:, None]
EXACT = MEAN + SPREAD * np.asarray(NOISE)  # the flow maps quantile to quantile


def denoise(x, time):
    """E[x0 | x_t] for x0 ~ N(MEAN, SPREAD^2)."""
    t = time[:, None]
    variance = t**2 * SPREAD**2 + (1 - t) ** 2
    return MEAN + t * SPREAD**2 / variance * (x - t * MEAN)


def unused(step):
    raise AssertionError("flow samplers are deterministic")


def draw(sampler):
    return jax.jit(lambda noise: sampler(denoise, Flow(), noise, unused))(NOISE)


def error(sampler, intervals, shift):
    samples = draw(sampler(steps=intervals + 1, shift=shift))
    return np.abs(samples - EXACT).max()


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.0])
def test_samplers_converge_at_their_order(shift):
    euler = [error(FlowEuler, count, shift) for count in (100, 200)]
    assert 1.7 < euler[0] / euler[1] < 2.3
    heun = [error(FlowHeun, count, shift) for count in (20, 40)]
    assert 3 < heun[0] / heun[1] < 6
    assert euler[1] < 0.05 and heun[1] < 0.05


@pytest.mark.parametrize("sampler", [FlowEuler, FlowHeun])
def test_samplers_are_the_textbook_rules_in_velocities(sampler):
    steps, shift = 8, 0.3
    grid = np.linspace(0, 1, steps)  # num_steps of the published code
    times = shift * grid / (1 + (shift - 1) * grid)
    times[-1] = 1

    def velocity(x, t):
        x0 = denoise(x, np.full(len(x), t))
        noise = (x - t * x0) / (1 - t)
        return x0 - noise

    x = np.asarray(NOISE, np.float64)
    for now, after in itertools.pairwise(times):
        first = velocity(x, now)
        end = x + (after - now) * first
        if sampler is FlowHeun and after < 1:
            end = x + (after - now) * (first + velocity(end, after)) / 2
        x = end
    np.testing.assert_allclose(draw(sampler(steps=steps, shift=shift)), x, atol=1e-5)


@pytest.mark.parametrize("sampler", [FlowEuler, FlowHeun])
def test_clipping_is_optional(sampler):
    for clip, expected in [(False, 5), (True, 1)]:
        samples = sampler(steps=5, clip=clip)(
            lambda x, time: 5 + 0 * x, Flow(), NOISE, unused
        )
        np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_the_published_250_steps_are_249_intervals():
    times = flow_times(250, 0.3)
    assert times[0] == 0 and times[-1] == 1 and len(times) == 250
    assert np.all(np.diff(times) > 0)
    even = 100 / 249
    assert times[100] == pytest.approx(0.3 * even / (1 - 0.7 * even))
    assert len(FlowEuler(steps=250).table(Flow())["time"]) == 249
    assert len(FlowHeun(steps=250).table(Flow())["time"]) == 2 * 249 - 1
    with pytest.raises(UserError, match="at least 2 times"):
        flow_times(1, 1.0)
    with pytest.raises(UserError, match="steps: 1 is not 2 or more"):
        FlowEuler(steps=1)


def test_training_times():
    key = jax.random.key(0)
    time = np.asarray(Flow(logit_mean=0.5, logit_std=2.0).training_times(key, 20_000))
    assert time.min() > 0 and time.max() < 1
    logit = np.log(time) - np.log1p(-time)
    assert logit.mean() == pytest.approx(0.5, abs=0.06)
    assert logit.std() == pytest.approx(2.0, abs=0.06)
    uniform = Flow(time_distribution="uniform")
    time = np.asarray(uniform.training_times(key, 20_000))
    assert time.mean() == pytest.approx(0.5, abs=0.01)
    assert time.std() == pytest.approx(12**-0.5, abs=0.01)
    shifted = Flow(time_distribution="uniform", shift=0.3).training_times(key, 20_000)
    np.testing.assert_allclose(shifted, 0.3 * time / (1 - 0.7 * time), rtol=1e-5)


def test_a_shift_scales_the_noise_level():
    time = jnp.array([0.1, 0.5, 0.9])
    flow = Flow()
    np.testing.assert_allclose(
        flow.noise_level(shift_time(time, 0.3)), flow.noise_level(time) / 0.3, rtol=1e-5
    )


def test_losses():
    keys = jax.random.split(jax.random.key(0), 3)
    x0, noise, output = (np.array(jax.random.normal(k, (4, 5, 5, 3))) for k in keys)
    time = jnp.array([0.1, 0.4, 0.6, 0.9])
    x_t = jax.jit(Flow().add_noise)(x0, noise, time)
    target = x0 - noise
    squared = ((output - target) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(
        jax.jit(Flow().loss)(output, x0, noise, x_t, time), squared, rtol=1e-5
    )
    norm = np.linalg.norm
    cosine = (output * target).sum(-1) / (norm(output, axis=-1) * norm(target, axis=-1))
    np.testing.assert_allclose(
        jax.jit(Flow(cosine_loss=True).loss)(output, x0, noise, x_t, time),
        squared + (1 - cosine).mean((1, 2)),
        rtol=1e-5,
    )


def test_the_cosine_loss_has_finite_gradients_at_a_zero_output():
    x0, noise = jnp.ones((2, 3, 3, 3)), jnp.zeros((2, 3, 3, 3))
    time = jnp.array([0.3, 0.6])
    flow = Flow(cosine_loss=True)

    def total(output):
        return flow.loss(output, x0, noise, flow.add_noise(x0, noise, time), time).sum()

    gradient = jax.jit(jax.grad(total))(jnp.zeros_like(x0))
    assert np.all(np.isfinite(gradient)) and np.all(gradient < 0)
