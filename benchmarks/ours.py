"""The product's own training step, sampler and feature extraction, ready to time."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ddae_jax.data import augment
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.ddpm_samplers import DDIM
from ddae_jax.features import encode as features
from ddae_jax.models.unet import UNet
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch
from ddae_jax.train.step import Keys, TrainStep

IMAGE_SHAPE = (32, 32, 3)

Options = dict[str, str] | None
"""XLA's compiler options; `ddae_jax.compiler.compiler_options()` in the product."""


def build(dtype: str) -> Denoiser:
    """The 35.7 M UNet under DDPM; `dtype` is float32 or bfloat16."""
    return Denoiser(UNet(dtype=jnp.dtype(dtype)), DDPM())


def trainer(
    denoiser: Denoiser, images: np.ndarray, options: Options
) -> Callable[[], None]:
    """Returns a call that does one optimiser step on uint8 NHWC `images`."""
    optimizer = optimizers.Adam(4e-4)
    recipe = TrainStep(denoiser, optimizer)
    key = jax.random.key(0)
    state = jax.jit(train_state.create(denoiser, optimizer, IMAGE_SHAPE))(key)
    step = jax.jit(recipe, donate_argnums=0, compiler_options=options)
    batch = Batch(jnp.asarray(images), *[jnp.zeros(len(images), jnp.int32)] * 3)
    keys = Keys.of(0)

    def run():
        nonlocal state
        state, metrics = step(state, batch, keys)
        jax.block_until_ready((state, metrics))

    return run


def sampler(
    denoiser: Denoiser, params: dict, batch: int, steps: int, options: Options
) -> Callable[[], None]:
    """Returns a call that samples `batch` images with deterministic DDIM."""

    @functools.partial(jax.jit, compiler_options=options)
    def sample(params, key):
        return DDIM(steps=steps)(
            lambda x_t, time: denoiser.x0(params, x_t, time),
            denoiser.process,
            jax.random.normal(key, (batch, *IMAGE_SHAPE)),
            step_noise=lambda step: jnp.zeros((batch, *IMAGE_SHAPE)),
        )

    key = jax.random.key(0)
    return lambda: jax.block_until_ready(sample(params, key))


def extractor(
    denoiser: Denoiser, params: dict, images: np.ndarray, tap: str, options: Options
) -> Callable[[], None]:
    """Returns a call that gives the pooled tap at t = 11 of uint8 `images`."""

    @functools.partial(jax.jit, compiler_options=options)
    def extract(params, images, key):
        noise = jax.random.normal(key, images.shape)
        x0 = augment.to_float(images)
        return features.extract(denoiser, params, x0, 11.0, noise, [tap])

    images, key = jnp.asarray(images), jax.random.key(0)
    return lambda: jax.block_until_ready(extract(params, images, key))


def parameters(denoiser: Denoiser) -> dict:
    """Random parameters to sample and extract with."""
    return jax.jit(lambda key: denoiser.init(key, IMAGE_SHAPE))(jax.random.key(0))
