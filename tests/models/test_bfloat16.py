"""bfloat16: training stays with float32. The networks' own files compare outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.datasets

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.models.unet import UNet

STEPS, LAST, BATCH = 50, 20, 16


def losses(dtype):
    """The losses of a short training on the digits."""
    network = UNet(
        channels=32,
        channel_multipliers=(1,),
        attention=(False,),
        blocks=1,
        dtype=dtype,
    )
    denoiser = Denoiser(network, DDPM())
    optimizer = optax.adam(1e-3)
    digits = sklearn.datasets.load_digits().images[: STEPS * BATCH, ..., None] / 8 - 1

    @jax.jit
    def step(state, key):
        params, opt_state = state
        draw_images, draw_time, draw_noise = jax.random.split(key, 3)
        chosen = jax.random.choice(draw_images, len(digits), (BATCH,))
        x0 = jnp.asarray(digits, jnp.float32)[chosen]
        time = denoiser.process.training_times(draw_time, BATCH)
        noise = jax.random.normal(draw_noise, x0.shape)
        loss, gradient = jax.value_and_grad(
            lambda params: denoiser.loss(params, x0, noise, time).mean()
        )(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    @jax.jit
    def init(key):
        params = denoiser.init(key, (8, 8, 1))
        return params, optimizer.init(params)

    state, made = init(jax.random.key(0)), []
    for key in jax.random.split(jax.random.key(1), STEPS):
        state, loss = step(state, key)
        made.append(loss)
    return np.array(made)


@pytest.mark.slow
def test_training_reaches_the_loss_of_float32():
    reference, ours = losses(jnp.float32), losses(jnp.bfloat16)
    end = reference[-LAST:]
    noise = end.std() / np.sqrt(LAST)
    difference = abs(ours[-LAST:].mean() - end.mean())
    print(f"{end.mean():.4f} in float32, off by {difference:.4f} ({noise:.4f})")
    assert end.mean() < 0.5 * reference[0]
    # Images, times and noise are the same, so that little of the noise remains.
    assert difference < noise
