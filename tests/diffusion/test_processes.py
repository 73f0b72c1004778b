"""Each process alone: the published tables, times and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.learned_variance import LearnedVarianceDDPM
from ddae_jax.errors import UserError
from tests.tools import golden_values


def test_ddpm_tables_are_the_published_ones():
    _, golden = golden_values.load("process_ddpm")
    process = DDPM()
    time = jnp.arange(1001, dtype=jnp.float32)
    for ours, name in [
        (1 - process.tables.beta, "ddpm_table/alpha_t"),
        (process.alpha_bars, "ddpm_table/alphabar_t"),
        (process.ddim_tables.alpha_bar, "ddim_table/alphabar_t"),
        (process.alpha(time), "ddpm_table/sqrtab"),
        (process.sigma(time), "ddpm_table/sqrtmab"),
        (np.sqrt(process.tables.beta), "ddpm_table/sqrt_beta_t"),
    ]:
        np.testing.assert_allclose(ours, golden[name], rtol=1e-5, atol=2e-6)


def test_edm_schedule_is_the_published_one():
    _, golden = golden_values.load("process_edm")
    for steps in (18, 50):
        np.testing.assert_allclose(
            EDM().schedule(steps), golden[f"schedule{steps}_64"], rtol=1e-12
        )


def test_official_times():
    assert DDPM().official_time(11) == 11.0
    edm = EDM()
    assert edm.official_time(0) == 0.0
    known = {1: 0.002, 2: 0.00753, 3: 0.02293, 4: 0.05995, 5: 0.13952, 8: 1.088}
    for index, sigma in known.items():
        assert edm.official_time(index) == pytest.approx(sigma, rel=1e-3)
    assert edm.official_time(18) == pytest.approx(80, rel=1e-6)
    assert Flow().official_time(0.95) == 0.95
    assert LearnedVarianceDDPM().official_time(0) == 0.0


def test_ddpm_noise_levels_of_the_published_probe_times():
    levels = DDPM().noise_level(jnp.array([1.0, 11.0, 21.0]))
    np.testing.assert_allclose(levels, [0.0100, 0.0469, 0.0794], atol=5e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DDPM().official_time(0), "time 0 is not"),
        (lambda: DDPM(timesteps=20).official_time(21), "1..20"),
        (lambda: EDM().official_time(19), "time 19 is not"),
        (lambda: EDM().schedule(1), "needs at least 2"),
        (lambda: DDPM(timesteps=0), "DDPM.timesteps: 0"),
        (lambda: DDPM(beta_start=0.1, beta_end=0.02), "beta_start"),
        (lambda: EDM(sigma_min=90.0), "sigma_min"),
        (lambda: EDM(sigma_data=0.0), "sigma_data"),
        (lambda: Flow(time_distribution="normal"), "mean 'logit_normal'"),
        (lambda: Flow(shift=0.0), "Flow.shift: 0.0"),
        (lambda: Flow().official_time(1.5), "time 1.5 is not in"),
        (lambda: LearnedVarianceDDPM().official_time(1000), "0..999"),
        (lambda: LearnedVarianceDDPM(timesteps=1), "timesteps: 1 is not 2"),
        (lambda: LearnedVarianceDDPM(beta_end=2.0), "beta_end"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_ddpm_inverts_every_time_and_takes_the_nearest():
    process = DDPM()
    time = jnp.arange(1.0, 1001.0)
    levels = process.noise_level(time)
    np.testing.assert_array_equal(process.time_at(levels), time)
    between = levels[:-1] ** 0.6 * levels[1:] ** 0.4
    np.testing.assert_array_equal(process.time_at(between), time[:-1])
    np.testing.assert_array_equal(
        process.time_at(jnp.array([0.0, 1e9])), jnp.array([1.0, 1000.0])
    )


def test_losses_are_those_of_the_papers():
    """Against the formulas written out: DDPM equation 14, EDM equation 8."""
    time = jnp.array([1.0, 2.0, 11.0, 500.0, 999.0, 1000.0])
    shape = (len(time), 4, 4, 3)
    x0 = jax.random.uniform(jax.random.key(1), shape, minval=-1)
    noise = jax.random.normal(jax.random.key(2), shape)
    process = DDPM()
    x_t = process.add_noise(x0, noise, time)
    output = jnp.sin(x_t)
    np.testing.assert_allclose(
        process.loss(output, x0, noise, x_t, time),
        jnp.square(output - noise).mean((1, 2, 3)),
        rtol=1e-6,
    )
    # EDM: in terms of the network's own target the weight is one at every sigma.
    process, time = EDM(), jnp.array([0.002, 0.05, 0.5, 1.0, 7.0, 80.0])
    sigma = np.asarray(time).reshape(-1, 1, 1, 1)
    x_t = process.add_noise(x0, noise, time)
    root = np.sqrt(sigma**2 + 0.25)
    target = (x0 - 0.25 / root**2 * x_t) * root / (0.5 * sigma)
    np.testing.assert_allclose(
        process.loss(output, x0, noise, x_t, time),
        jnp.square(output - target).mean((1, 2, 3)),
        rtol=1e-3,  # at sigma 0.002 the target loses four digits to cancellation
    )


def test_training_times():
    ddpm = DDPM(timesteps=10).training_times(jax.random.key(0), 2000)
    assert ddpm.dtype == jnp.float32
    values, counts = np.unique(ddpm, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 11))
    assert counts.min() > 140
    dit = LearnedVarianceDDPM(timesteps=10).training_times(jax.random.key(0), 2000)
    values, counts = np.unique(dit, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(10))
    assert counts.min() > 140
    logarithm = np.log(EDM().training_times(jax.random.key(0), 20_000))
    assert logarithm.mean() == pytest.approx(-1.2, abs=0.03)
    assert logarithm.std() == pytest.approx(1.2, abs=0.03)


def test_network_inputs():
    x_t = jnp.ones((2, 1, 1, 1))
    scaled, time = DDPM().network_inputs(x_t, jnp.array([1.0, 1000.0]))
    np.testing.assert_array_equal(scaled, x_t)
    np.testing.assert_allclose(time, [0.001, 1.0])
    scaled, time = EDM().network_inputs(x_t, jnp.array([0.5, 80.0]))
    np.testing.assert_allclose(scaled.ravel(), [2**0.5, 1 / 80.0015625], rtol=1e-6)
    np.testing.assert_allclose(time, np.log([0.5, 80.0]) / 4, rtol=1e-6)
    scaled, time = Flow().network_inputs(x_t, jnp.array([0.5, 0.9]))
    np.testing.assert_array_equal(scaled, x_t)
    np.testing.assert_allclose(time, [0.5, 0.9])
