"""DiT's process: published tables, the hybrid loss, respaced sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.learned_variance import LearnedVarianceDDPM
from ddae_jax.diffusion.respaced import Respaced
from ddae_jax.diffusion.schedules import respaced_times
from ddae_jax.diffusion.variational import decoder_log_likelihood, gaussian_kl
from ddae_jax.errors import UserError
from tests.tools import golden_values

PROCESS = LearnedVarianceDDPM()
ALPHA_BARS = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def step_back(t, s, x0, x_t):
    """q(x_s | x_t, x0) by weighing precisions; s = -1 is the clean image.

    Returns the mean, its variance, and the variance of q(x_t | x_s).
    """
    bar_t, bar_s = ALPHA_BARS[t], 1.0 if s < 0 else ALPHA_BARS[s]
    forward = 1 - bar_t / bar_s
    if s < 0:
        return x0, 0.0, forward
    ratio = np.sqrt(bar_t / bar_s)
    precision = 1 / (1 - bar_s) + ratio**2 / forward
    mean = np.sqrt(bar_s) * x0 / (1 - bar_s) + ratio * x_t / forward
    return mean / precision, 1 / precision, forward


def test_tables_and_noising_are_the_published_ones():
    _, golden = golden_values.load("dit_diffusion")
    np.testing.assert_allclose(
        PROCESS.alpha_bars, golden["alphas_cumprod_64"], rtol=1e-12
    )
    x_t = jax.jit(PROCESS.add_noise)(
        golden_values.nhwc(golden["in/latent"]),
        jnp.asarray(golden_values.nhwc(golden["in/noise"])),
        jnp.asarray(golden["in/t"], jnp.float32),
    )
    expected = golden_values.nhwc(golden["out/x_t"])
    assert golden_values.relative_error(x_t, expected) < 1e-6


def test_network_sees_raw_times_and_outputs_are_split():
    time = jnp.array([0.0, 999.0])
    x_t = jnp.ones((2, 2, 2, 4))
    images, network_time = PROCESS.network_inputs(x_t, time)
    np.testing.assert_array_equal(images, x_t)
    np.testing.assert_array_equal(network_time, time)
    output = jax.random.normal(jax.random.key(0), (2, 2, 2, 8))
    noise = PROCESS.predicted_noise(output, x_t)
    np.testing.assert_array_equal(noise, output[..., :4])
    both = PROCESS.estimate(output, x_t, time)
    np.testing.assert_array_equal(both[..., :4], PROCESS.x0(output, x_t, time))
    np.testing.assert_array_equal(both[..., 4:], output[..., 4:])


def test_hybrid_loss_is_squared_error_plus_bound():
    time = np.array([1, 7, 121, 999])
    keys = jax.random.split(jax.random.key(0), 3)
    x0, noise = (np.array(jax.random.normal(k, (4, 2, 2, 3))) for k in keys[:2])
    output = 0.5 * np.array(jax.random.normal(keys[2], (4, 2, 2, 6)))
    time_32 = jnp.asarray(time, jnp.float32)
    x_t = np.asarray(jax.jit(PROCESS.add_noise)(x0, noise, time_32))
    ours = jax.jit(PROCESS.loss)(output, x0, noise, x_t, time_32)
    for i, t in enumerate(time):
        guess, fraction = output[i, ..., :3], (output[i, ..., 3:] + 1) / 2
        estimate = x_t[i] - np.sqrt(1 - ALPHA_BARS[t]) * guess
        estimate = estimate / np.sqrt(ALPHA_BARS[t])
        mean, _, _ = step_back(t, t - 1, estimate, x_t[i])
        true_mean, low, high = step_back(t, t - 1, x0[i], x_t[i])
        variance = high**fraction * low ** (1 - fraction)
        nats = np.log(variance / low) - 1 + (low + (mean - true_mean) ** 2) / variance
        bits = nats / 2 / np.log(2)
        expected = ((guess - noise[i]) ** 2).mean() + bits.mean()
        assert ours[i] == pytest.approx(expected, rel=1e-4)


def test_bound_trains_the_variance_only():
    time = jnp.array([0.0, 50.0])
    keys = jax.random.split(jax.random.key(0), 3)
    x0, noise = (jax.random.normal(k, (2, 2, 2, 3)) for k in keys[:2])
    output = jax.random.normal(keys[2], (2, 2, 2, 6))
    x_t = PROCESS.add_noise(x0, noise, time)
    total = jax.grad(lambda o: PROCESS.loss(o, x0, noise, x_t, time).sum())
    gradient = jax.jit(total)(output)
    mean_only = jax.grad(lambda o: ((o[..., :3] - noise) ** 2).mean((1, 2, 3)).sum())
    np.testing.assert_allclose(
        gradient[..., :3], mean_only(output)[..., :3], rtol=1e-5, atol=1e-8
    )
    assert np.all(gradient[1, ..., 3:] != 0) and np.any(gradient[0, ..., 3:] != 0)


def test_first_step_likelihood_is_that_of_256_bins():
    """Over all pixel values the bins share out the whole probability."""
    pixels = jnp.linspace(-1, 1, 256)
    for mean, scale in [(0.1, 0.02), (-0.99, 0.05), (0.0, 3.0)]:
        log = decoder_log_likelihood(
            pixels, jnp.full(256, mean), jnp.full(256, np.log(scale))
        )
        assert np.exp(log).sum() == pytest.approx(1, abs=1e-3)
        assert pixels[np.argmax(log[1:-1]) + 1] == pytest.approx(mean, abs=1 / 128)


def test_divergence_of_gaussians():
    assert gaussian_kl(*jnp.array([0.3, 0.1, 0.3, 0.1])) == pytest.approx(0, abs=1e-7)
    expected = np.log(2) + (1 + 0.5**2) / 8 - 0.5
    divergence = gaussian_kl(*jnp.array([0.5, 0, 0, 2 * np.log(2)]))
    assert divergence == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [2, 21, 250, 1000])
def test_respaced_times(steps):
    times = respaced_times(1000, steps)
    assert times[0] == 0 and times[-1] == 999 and len(times) == steps
    assert set(np.diff(times)) <= {999 // (steps - 1), -(-999 // (steps - 1))}


def test_respaced_times_refuses_what_does_not_fit():
    for steps in (1, 1001):
        with pytest.raises(UserError, match=f"steps: {steps} is not in"):
            respaced_times(1000, steps)


@pytest.mark.parametrize("variance_output", [-1.0, 0.4, 1.0])
def test_respaced_sampling_follows_its_gaussian_chain(variance_output):
    """As in test_diffusion_samplers.py: Gaussian data, moments in closed form."""
    centre, deviation, count, steps = 0.3, 0.2, 20_000, 25

    def posterior_mean(x, alpha, sigma):
        gain = deviation**2 * alpha / (alpha**2 * deviation**2 + sigma**2)
        return centre + gain * (x - alpha * centre)

    def denoise(x, time):
        alpha, sigma = PROCESS.alpha(time)[:, None], PROCESS.sigma(time)[:, None]
        x0 = posterior_mean(x, alpha, sigma)
        return jnp.concatenate([x0, jnp.full_like(x, variance_output)], axis=-1)

    def noise(step):
        key = jax.random.fold_in(jax.random.key(1), step)
        return jax.random.normal(key, (count, 1))

    mean, spread = 0.0, 1.0
    times = [*respaced_times(1000, steps)[::-1], -1]
    fraction = (variance_output + 1) / 2
    for t, s in itertools.pairwise(times):

        def back(x, t=t, s=s):
            bar = ALPHA_BARS[t]
            x0 = posterior_mean(x, np.sqrt(bar), np.sqrt(1 - bar))
            return step_back(t, s, x0, x)

        offset, low, high = back(0.0)
        slope = back(1.0)[0] - offset
        added = high**fraction * low ** (1 - fraction) if s >= 0 else 0
        mean, spread = slope * mean + offset, slope**2 * spread + added
    samples = jax.jit(lambda start: Respaced(steps)(denoise, PROCESS, start, noise))(
        noise(1000)
    )
    samples = np.asarray(samples, np.float64)
    error = 4 * np.sqrt(spread / count)
    assert samples.mean() == pytest.approx(mean, abs=error)
    assert samples.std() == pytest.approx(np.sqrt(spread), abs=error)
    assert samples.mean() == pytest.approx(centre, abs=0.02)


def test_respaced_sampling_clips_the_estimate_but_not_the_variance():
    def denoise(x, time):
        return jnp.concatenate([5 + 0 * x, jnp.full_like(x, -1.0)], axis=-1)

    start = jnp.zeros((2, 3))
    for clip, expected in [(False, 5), (True, 1)]:
        samples = Respaced(5, clip)(denoise, PROCESS, start, lambda step: start)
        np.testing.assert_allclose(samples, expected, rtol=1e-5)
