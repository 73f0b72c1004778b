"""The flow's loss and times, and its samplers on Gaussian data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.flow import Flow, shift_time
from ddae_jax.diffusion.flow_samplers import flow_euler, flow_heun, flow_schedule
from ddae_jax.errors import UserError

MEAN, DEVIATION = 0.3, 0.2
NOISE = jnp.linspace(-2, 2, 9)[:, None]
EXACT = MEAN + DEVIATION * np.asarray(NOISE)  # the flow maps quantile to quantile


def denoise(x, time):
    """E[x0 | x_t] for x0 ~ N(MEAN, DEVIATION^2)."""
    t = time[:, None]
    variance = t**2 * DEVIATION**2 + (1 - t) ** 2
    return MEAN + t * DEVIATION**2 / variance * (x - t * MEAN)


def unused(step):
    raise AssertionError("flow samplers are deterministic")


def error(sampler, steps, shift):
    run = jax.jit(
        lambda noise: sampler(denoise, Flow(), noise, unused, steps=steps, shift=shift)
    )
    return np.abs(run(NOISE) - EXACT).max()


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.0])
def test_samplers_converge_at_their_order(shift):
    euler = [error(flow_euler, steps, shift) for steps in (100, 200)]
    assert 1.7 < euler[0] / euler[1] < 2.3
    heun = [error(flow_heun, steps, shift) for steps in (20, 40)]
    assert 3 < heun[0] / heun[1] < 6
    assert euler[1] < 0.05 and heun[1] < 0.05


@pytest.mark.parametrize("sampler", [flow_euler, flow_heun])
def test_samplers_are_the_textbook_rules_in_velocities(sampler):
    steps, shift = 7, 0.3
    grid = np.arange(steps + 1) / steps
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
        if sampler is flow_heun and after < 1:
            end = x + (after - now) * (first + velocity(end, after)) / 2
        x = end
    ours = jax.jit(
        lambda noise: sampler(denoise, Flow(), noise, unused, steps=steps, shift=shift)
    )(NOISE)
    np.testing.assert_allclose(ours, x, atol=1e-5)


@pytest.mark.parametrize("sampler, evaluations", [(flow_euler, 5), (flow_heun, 9)])
def test_evaluations_are_counted_and_clipping_is_optional(sampler, evaluations):
    calls = []

    def five(x, time):
        jax.debug.callback(lambda _: calls.append(1), time[0])
        return 5 + 0 * x

    assert np.allclose(sampler(five, Flow(), NOISE, unused, steps=5), 5, atol=1e-4)
    jax.effects_barrier()
    assert len(calls) == evaluations
    clipped = sampler(five, Flow(), NOISE, unused, steps=5, clip=True)
    assert np.allclose(clipped, 1, atol=1e-4)


def test_schedule():
    times = flow_schedule(250, 0.3)
    assert times[0] == 0 and times[-1] == 1 and len(times) == 251
    assert np.all(np.diff(times) > 0)
    assert times[125] == pytest.approx(0.15 / 0.65)
    for steps, shift, message in [(0, 1.0, "at least 1 step"), (5, 0.0, "shift is 0")]:
        with pytest.raises(UserError, match=message):
            flow_schedule(steps, shift)


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


def test_the_cosine_loss_has_finite_slopes_at_a_zero_output():
    x0, noise = jnp.ones((2, 3, 3, 3)), jnp.zeros((2, 3, 3, 3))
    time = jnp.array([0.3, 0.6])
    flow = Flow(cosine_loss=True)

    def total(output):
        return flow.loss(output, x0, noise, flow.add_noise(x0, noise, time), time).sum()

    gradient = jax.jit(jax.grad(total))(jnp.zeros_like(x0))
    assert np.all(np.isfinite(gradient)) and np.all(gradient < 0)
