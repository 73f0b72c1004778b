"""The memory of training, estimated, beside what XLA says."""

import jax
import jax.numpy as jnp
import pytest

from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import memory
from ddae_jax.runtime import memory as of_system
from ddae_jax.settings import config_files, schema

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def denoiser():
    config = config_files.load("image_folder:test")
    return Denoiser(schema.network(config), schema.process(config))


def test_the_estimate_is_near_what_the_program_takes(denoiser):
    shape, batch = (16, 16, 3), 64
    state, kept = memory.training_bytes(denoiser, shape, batch)
    params = denoiser.parameter_shapes(shape)
    one = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    assert state == 5 * one
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    times = jax.ShapeDtypeStruct((batch,), jnp.float32)

    def gradient(params, x0, noise, time):
        return jax.grad(
            lambda params: denoiser.loss(
                params, x0, noise, time, dropout_key=jax.random.key(0)
            ).mean()
        )(params)

    program = jax.jit(gradient).lower(params, images, images, times).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert 0.5 * taken < kept < 2 * taken


def test_training_that_does_not_fit_is_refused(denoiser, monkeypatch):
    shape = (16, 16, 3)
    state, kept = memory.training_bytes(denoiser, shape, 64)
    monkeypatch.setattr(of_system, "available", lambda: state + kept)
    memory.check_training(denoiser, shape, 64)
    monkeypatch.setattr(of_system, "available", lambda: state + kept - 1)
    with pytest.raises(UserError, match=r"64 images of 16x16x3 needs about .* GB") as e:
        memory.check_training(denoiser, shape, 64)
    assert "lower it (up to about 57 fits)" in str(e.value)
    monkeypatch.setattr(of_system, "available", lambda: 1000)
    with pytest.raises(UserError, match="lower it, or"):
        memory.check_training(denoiser, shape, 64)
