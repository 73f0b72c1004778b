"""bfloat16: the UNet's forward pass, and training, stay with float32.

The other networks' forward passes are compared in their own files.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import batches, sources
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.models.unet import UNet
from ddae_jax.train import state as train_state
from ddae_jax.train.step import TrainStep
from tests.models import test_unet
from tests.tools import golden_values

STEPS, LAST = 60, 20


@pytest.mark.parametrize("name", ["unet_small", "unet_small_bigup"])
def test_unet_forward(name):
    meta, arrays = golden_values.load(name)
    network = test_unet.network_of(meta["kwargs"]).clone(dtype=jnp.bfloat16)
    images = golden_values.nhwc(arrays["in/x"])
    params = test_unet.params_of(network, meta, images.shape[1:])
    output = jax.jit(network.apply)(
        {"params": params}, images, arrays["in/t"], None, arrays.get("in/aug")
    )
    assert output.dtype == jnp.float32
    expected = golden_values.nhwc(arrays["out/y"])
    error = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    print(f"{name}: relative deviation {error:.1e}")
    assert error < 3e-2


def trainer(dtype):
    """Returns a function that gives the losses of a short training on the digits."""
    network = UNet(
        image_channels=1,
        channels=32,
        channel_multipliers=(1,),
        attention=(False,),
        blocks=1,
        dtype=dtype,
    )
    recipe = TrainStep(Denoiser(network, DDPM()), train_state.adam(1e-3))
    init = jax.jit(train_state.create(recipe.denoiser, recipe.optimizer, (8, 8, 1)))
    step = jax.jit(recipe, donate_argnums=0)
    source = sources.load("digits", "train")
    order = batches.Order(0, len(source))
    labels = jnp.zeros(32, jnp.int32)

    def train():
        key = jax.random.key(0)
        state, losses = init(key), []
        for i in range(STEPS):
            state, metrics = step(state, source.read(order.batch(i, 32)), labels, key)
            losses.append(metrics["loss"])
        return np.array(losses)

    return train


def test_training_reaches_the_loss_of_float32():
    exact, half = trainer(jnp.float32), trainer(jnp.bfloat16)
    reference, ours = exact(), half()
    end = reference[-LAST:]
    noise = end.std() / np.sqrt(LAST)
    difference = abs(ours[-LAST:].mean() - end.mean())
    print(f"{end.mean():.4f} in float32, off by {difference:.4f} ({noise:.4f})")
    assert end.mean() < 0.5 * reference[0]
    # Data, times and noise are the same, so that little of the noise remains.
    assert difference < noise
