"""The memory that training takes, known before it is taken."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import memory

_COPIES = 5  # of the parameters: themselves, EMA, gradient and Adam's two moments


def training_bytes(
    denoiser: Denoiser, image_shape: Sequence[int], batch_size: int
) -> tuple[int, int]:
    """Returns the bytes of (state and gradient, what one batch keeps for its gradient).

    Nothing is computed or compiled. XLA's own count of the second lies between 0.9 and
    1.4 times this one (measured on the UNets of configs/ on CPU).
    """
    params = denoiser.parameter_shapes(image_shape)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    times = jax.ShapeDtypeStruct((batch_size,), jnp.float32)

    def kept(params, x0, noise, time, seed):
        def loss(params):
            key = jax.random.key(seed)
            labels = denoiser.any_labels(batch_size)
            losses = denoiser.loss(params, x0, noise, time, labels, dropout_key=key)
            return losses.mean()

        _, backward = jax.vjp(loss, params)
        return backward

    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    residuals = jax.eval_shape(kept, params, images, images, times, seed)
    return _COPIES * _bytes(params), _bytes(residuals)


def check_training(
    denoiser: Denoiser, image_shape: Sequence[int], batch_size: int
) -> None:
    """Raises a UserError where training on CPUs takes more memory than there is.

    Accelerators say so themselves, before they compute.

    Args:
      batch_size: over all hosts.
    """
    free = memory.available()
    if jax.default_backend() != "cpu" or free is None:
        return
    local = math.ceil(batch_size / jax.process_count())
    state, batch = training_bytes(denoiser, image_shape, local)
    fits = int((free - state) / batch * local * 0.9) * jax.process_count()
    smaller = f" (up to about {fits} fits)" if fits > 0 else ""
    size = "x".join(map(str, image_shape))
    memory.check(
        state + batch,
        f"config.train.batch_size: {batch_size} images of {size}",
        f"lower it{smaller}, or config.network.channels, or config.data.image_size",
    )


def _bytes(tree) -> int:
    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
