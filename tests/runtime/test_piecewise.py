"""Results of a program one by one: those of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel, piecewise
from ddae_jax.train import state as train_state
from tests.tools import compilations


def test_each_result_is_computed_from_what_it_needs_alone():
    def _fail(_):
        raise AssertionError("computed")

    def function(key, scale):
        first, second = jax.random.split(key)
        forbidden = jax.pure_callback(_fail, scale, scale)
        one = jax.random.normal(first, (3,)) * scale
        return one, scale, jnp.ones(2), jax.random.uniform(second, (3,)), forbidden

    program = jax.make_jaxpr(function)(jax.random.key(0), 2.0)
    key, scale = jax.random.key(3), jnp.float32(5)
    found = piecewise.results(program, key, scale)
    first, second = jax.random.split(key)
    np.testing.assert_allclose(
        next(found), 5 * jax.random.normal(first, (3,)), rtol=1e-6
    )
    assert next(found) == 5
    np.testing.assert_array_equal(next(found), np.ones(2))
    np.testing.assert_allclose(next(found), jax.random.uniform(second, (3,)), rtol=1e-6)


@pytest.mark.slow
def test_initial_parameters_are_those_of_one_program_and_equal_draws_share_theirs():
    network = UNet(channels=96, channel_multipliers=(1,), attention=(False,), blocks=3)
    denoiser, key, shape = Denoiser(network, DDPM()), jax.random.key(5), (8, 8, 1)
    shapes = denoiser.parameter_shapes(shape)
    places = parallel.state_shardings(parallel.make_mesh(), shapes)
    with compilations.names() as compiled:
        found = train_state.initial_parameters(denoiser, key, shape, places)
    kernels = [leaf.shape for leaf in jax.tree.leaves(shapes) if leaf.ndim > 1]
    assert 0 < compiled.count("_part") < 0.7 * len(kernels)
    wanted = jax.jit(lambda key: denoiser.init(key, shape))(key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found,
        wanted,
    )
