"""Samplers against Gaussian data, for which every step is known in closed form.

For x0 ~ N(MEAN, SPREAD^2) the best denoiser is affine, so each sampler is a chain
of affine Gaussian steps whose mean and variance are followed here in float64, by
formulas other than the samplers' own.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.ddpm_samplers import DDIM, DDPMAncestral
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.edm_sampler import EDMHeun
from ddae_jax.errors import UserError
from tests.tools import golden_values

MEAN, SPREAD = 0.3, 0.2
COUNT = 40_000


def posterior_mean(x, alpha, sigma):
    """E[x0 | x = alpha x0 + sigma noise]."""
    gain = SPREAD**2 * alpha / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def exact_denoiser(process):
    return lambda x, time: posterior_mean(
        x, process.alpha(time)[:, None], process.sigma(time)[:, None]
    )


def start_noise():
    return jax.random.normal(jax.random.key(0), (COUNT, 1))


def fresh_noise(step):
    key = jax.random.fold_in(jax.random.key(1), step)
    return jax.random.normal(key, (COUNT, 1))


def run(sampler, process):
    def go(noise):
        return sampler(exact_denoiser(process), process, noise, fresh_noise)

    return np.asarray(jax.jit(go)(start_noise()), np.float64)


def assert_moments(samples, mean, variance):
    spread = np.sqrt(variance)
    error = 4 * spread / np.sqrt(COUNT)
    assert samples.mean() == pytest.approx(mean, abs=error)
    assert samples.std() == pytest.approx(spread, abs=error)


def affine(step):
    """Slope and offset of an affine function."""
    return step(1.0) - step(0.0), step(0.0)


def test_ancestral_follows_the_posterior_of_the_forward_process():
    process = DDPM(timesteps=100, beta_start=1e-3, beta_end=0.2)
    beta = np.concatenate([[0], np.linspace(1e-3, 0.2, 100)])
    bar = np.cumprod(1 - beta)
    mean, variance = 0.0, 1.0
    for t in range(100, 0, -1):

        def posterior(x, t=t):  # DDPM, equation 7
            x0 = posterior_mean(x, np.sqrt(bar[t]), np.sqrt(1 - bar[t]))
            weight = np.sqrt(bar[t - 1]) * beta[t] * x0
            weight += np.sqrt(1 - beta[t]) * (1 - bar[t - 1]) * x
            return weight / (1 - bar[t])

        slope, offset = affine(posterior)
        mean = slope * mean + offset
        variance = slope**2 * variance + (beta[t] if t > 1 else 0)
    samples = run(DDPMAncestral(clip=False), process)
    assert_moments(samples, mean, variance)
    assert_moments(samples, MEAN, (SPREAD * 1.05) ** 2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginals_of_its_own_table(eta):
    process = DDPM()
    train = np.cumprod(1 - np.concatenate([[0], np.linspace(1e-4, 0.02, 1000)]))
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1001))
    times = [*range(981, 0, -20), 0]
    mean, variance = 0.0, 1.0
    for t, after in itertools.pairwise(times):
        added = eta**2 * (1 - table[after]) / (1 - table[t])
        added *= 1 - table[t] / table[after]

        def move(x, t=t, after=after, added=added):
            x0 = posterior_mean(x, np.sqrt(train[t]), np.sqrt(1 - train[t]))
            noise = (x - np.sqrt(train[t]) * x0) / np.sqrt(1 - train[t])
            x0 = (x - np.sqrt(1 - table[t]) * noise) / np.sqrt(table[t])
            return (
                np.sqrt(table[after]) * x0 + np.sqrt(1 - table[after] - added) * noise
            )

        slope, offset = affine(move)
        mean = slope * mean + offset
        variance = slope**2 * variance + (added if after else 0)
    samples = run(DDIM(steps=50, eta=eta, clip=False), process)
    assert_moments(samples, mean, variance)
    assert samples.mean() == pytest.approx(MEAN, abs=0.01)
    assert samples.std() == pytest.approx(SPREAD, rel=0.25)


def test_deterministic_samplers_follow_the_probability_flow():
    """The flow maps quantile to quantile: x0 = mean + spread * (start, scaled)."""
    start = np.asarray(start_noise(), np.float64)
    ddim = run(DDIM(steps=1000, clip=False), DDPM())
    bar = DDPM().alpha_bars[-1]
    scaled = start - np.sqrt(bar) * MEAN
    scaled /= np.sqrt(bar * SPREAD**2 + 1 - bar)
    np.testing.assert_allclose(ddim, MEAN + SPREAD * scaled, atol=0.01)

    heun = run(EDMHeun(steps=64, clip=False), EDM())
    scaled = (80 * start - MEAN) / np.hypot(80, SPREAD)
    np.testing.assert_allclose(heun, MEAN + SPREAD * scaled, atol=5e-3)


def test_heun_is_of_second_order():
    start = np.asarray(start_noise(), np.float64)
    exact = MEAN + SPREAD * (80 * start - MEAN) / np.hypot(80, SPREAD)
    errors = [
        np.abs(run(EDMHeun(steps=steps, clip=False), EDM()) - exact).max()
        for steps in (20, 40)
    ]
    assert 3 < errors[0] / errors[1] < 6


@pytest.mark.parametrize("churn", [0.5, 1.0])
def test_churned_heun_follows_its_affine_chain(churn):
    process, steps = EDM(), 18
    roots = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), steps)
    sigmas = [*roots**7, 0.0]
    mean, variance = 0.0, sigmas[0] ** 2
    for here, after in itertools.pairwise(sigmas):
        gamma = (np.sqrt(2) - 1) * churn if 0.01 <= here <= 1 else 0
        raised = (1 + gamma) * here
        variance += (raised**2 - here**2) * 1.007**2

        def move(x, raised=raised, after=after):
            def slope(x, sigma):
                return (x - posterior_mean(x, 1, sigma)) / sigma

            first = slope(x, raised)
            end = x + (after - raised) * first
            if after == 0:
                return end
            return x + (after - raised) * (first + slope(end, after)) / 2

        gain, offset = affine(move)
        mean, variance = gain * mean + offset, gain**2 * variance
    samples = run(EDMHeun(steps=steps, churn=churn, clip=False), process)
    assert_moments(samples, mean, variance)
    assert samples.mean() == pytest.approx(MEAN, abs=0.01)
    assert samples.std() == pytest.approx(SPREAD, rel=0.25)


@pytest.mark.parametrize(
    "sampler, process",
    [
        (DDPMAncestral(), DDPM(timesteps=7)),
        (DDIM(steps=5, eta=1.0), DDPM(timesteps=20)),
        (EDMHeun(steps=5, churn=1.0), EDM()),
    ],
)
def test_estimates_are_clipped(sampler, process):
    samples = jax.jit(
        lambda start: sampler(
            lambda x, time: 5 + 0 * x, process, start, lambda step: jnp.zeros((2, 3))
        )
    )(jnp.ones((2, 3)))
    assert np.all(np.abs(samples - 1) < 0.05)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DDIM(steps=300).check(DDPM()), "steps: 300 do not divide .* 1000"),
        (lambda: DDIM(steps=0), "steps: 0 is not 1 or more"),
        (lambda: DDIM(eta=-1.0), "eta: -1.0 is not 0 or more, at most 1"),
        (lambda: EDMHeun(steps=1), "steps: 1 is not 2 or more"),
        (lambda: EDMHeun(churn=2.0), "churn: 2.0"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_coefficients_are_the_published_tables():
    """Of every step, as DDAE's code tabulates them in float32."""
    _, golden = golden_values.load("process_ddpm")
    ancestral = DDPMAncestral().table(DDPM())
    for name, theirs in [
        ("growth", "oneover_sqrta"),
        ("noise_part", "ma_over_sqrtmab"),
        ("alpha", "sqrtab"),
        ("sigma", "sqrtmab"),
    ]:
        expected = golden[f"ddpm_table/{theirs}"][1:]
        # 1 - beta is rounded first, so the smallest differ by one unit in 1e-4.
        # 1 - alpha_bar cancels at small t: one ulp of alpha_bar is 8e-5 of it at t = 5.
        np.testing.assert_allclose(ancestral[name][::-1], expected, rtol=1e-4)
    np.testing.assert_allclose(
        ancestral["fresh"][:-1][::-1], golden["ddpm_table/sqrt_beta_t"][2:], rtol=1e-6
    )
    ddim = DDIM(steps=1000).table(DDPM())
    for name, theirs in [("alpha", "sqrtab"), ("sigma", "sqrtmab")]:
        expected = golden[f"ddim_table/{theirs}"]
        np.testing.assert_allclose(ddim[name][::-1], expected[1:], rtol=1e-4)
    np.testing.assert_allclose(
        ddim["next_alpha"], golden["ddim_table/sqrtab"][:-1][::-1], rtol=1e-6
    )
