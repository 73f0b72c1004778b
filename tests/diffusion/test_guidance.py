"""Classifier-free guidance: the formula, the interval, the channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.guidance import Guidance
from ddae_jax.errors import UserError

X_T = jnp.ones((3, 2, 2, 4))
SIGMAS = jnp.array([0.1, 1.0, 10.0])


def conditional(x, time):
    return 3 * x


def unconditional(x, time):
    return 2 * x


def test_extrapolates_from_the_unconditional_estimate():
    for scale, expected in [(0.0, 2), (1.0, 3), (4.0, 6)]:
        x0 = Guidance(scale)(conditional, unconditional, EDM())(X_T, SIGMAS)
        np.testing.assert_allclose(x0, expected)


def test_guides_only_noise_levels_inside_the_interval():
    denoise = Guidance(4.0, 0.5, 1.0)(conditional, unconditional, EDM())
    np.testing.assert_allclose(denoise(X_T, SIGMAS)[:, 0, 0, 0], [3, 6, 3])


def test_interval_means_the_same_for_every_process():
    flow = Flow()
    denoise = Guidance(4.0, 0.5, 2.0)(conditional, unconditional, flow)
    x0 = denoise(X_T, flow.time_at(SIGMAS))
    np.testing.assert_allclose(x0[:, 0, 0, 0], [3, 6, 3])


def test_guides_only_the_first_channels():
    denoise = Guidance(4.0, channels=3)(conditional, unconditional, EDM())
    np.testing.assert_allclose(denoise(X_T, SIGMAS)[0, 0, 0], [6, 6, 6, 3])


def test_guiding_x0_is_guiding_the_noise():
    process, scale = EDM(), 2.5
    noise = scale * process.noise_estimate(conditional(X_T, SIGMAS), X_T, SIGMAS)
    noise += (1 - scale) * process.noise_estimate(
        unconditional(X_T, SIGMAS), X_T, SIGMAS
    )
    x0 = Guidance(scale)(
        lambda x, time: process.x0(conditional(x, time), x, time),
        lambda x, time: process.x0(unconditional(x, time), x, time),
        process,
    )(X_T, SIGMAS)
    np.testing.assert_allclose(
        x0, X_T - SIGMAS.reshape(-1, 1, 1, 1) * noise, rtol=1e-5, atol=1e-5
    )


def test_unconditional_network_does_not_run_outside_the_interval():
    calls = []

    def counted(x, time):
        jax.debug.callback(lambda _: calls.append(1), time[0])
        return unconditional(x, time)

    denoise = jax.jit(Guidance(4.0, 0.5, 2.0)(conditional, counted, EDM()))
    denoise(X_T, jnp.full(3, 50.0)).block_until_ready()
    jax.effects_barrier()
    assert not calls
    denoise(X_T, SIGMAS).block_until_ready()
    jax.effects_barrier()
    assert calls == [1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"low": 2.0, "high": 1.0}, "interval"),
        ({"low": -1.0, "high": 1.0}, "interval"),
        ({"channels": 0}, "guidance of 0 channels"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Guidance(2.0, **options)


def test_a_learned_variance_is_not_guided():
    denoise = Guidance(4.0)(
        lambda x, time: jnp.concatenate([3 * x, x], axis=-1),
        lambda x, time: jnp.concatenate([2 * x, 5 * x], axis=-1),
        EDM(),
    )
    x0, variance = jnp.split(denoise(X_T, SIGMAS), 2, axis=-1)
    np.testing.assert_allclose(x0, 6)
    np.testing.assert_allclose(variance, 1)
