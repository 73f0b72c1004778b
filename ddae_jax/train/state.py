"""What training carries from step to step, the optimiser, and the law of the EMA."""

import functools
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import compiler


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: optimiser steps done.
    params: the parameters being trained, float32.
    ema: their exponential moving average, float32: what samples and features use.
    opt_state: of the optax optimiser.
    """

    step: Int[Array, ""]
    params: dict
    ema: dict
    opt_state: optax.OptState


def warmup_schedule(
    learning_rate: float, warmup_steps: int, decay_from: int = 0
) -> optax.Schedule:
    """Linear from learning_rate / warmup_steps at step 0, then constant.

    With `decay_from`, from that step on learning_rate * sqrt(decay_from / step): the
    inverse square root schedule of EDM2 (Karras et al. 2024, arXiv 2312.02696).
    """

    def schedule(step):
        rate = learning_rate * jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)
        if decay_from:
            rate = rate * jax.lax.rsqrt(jnp.maximum(step / decay_from, 1.0))
        return rate

    return schedule


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
    clip_norm: float = 1.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) behind a limit on the global norm of the gradient.

    With `weight_decay` AdamW (Loshchilov & Hutter 2019), on all parameters.
    """
    moments = {"b1": b1, "b2": b2, "eps": epsilon}
    if weight_decay:
        rule = optax.adamw(learning_rate, **moments, weight_decay=weight_decay)
    else:
        rule = optax.adam(learning_rate, **moments)
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def ema_decay(step: Int[Array, ""], cap: float, warmup: bool) -> Float[Array, ""]:
    """Decay of the EMA update after optimiser step `step` (counted from 0).

    With warm-up 1 - (1 + step)^(-2/3), at most `cap`: the law of the ema_pytorch
    package, which the published weights went through. Step 0 copies the parameters.
    """
    if not warmup:
        return jnp.float32(cap)
    return jnp.minimum(cap, 1 - (1 + step.astype(jnp.float32)) ** (-2 / 3))


def create(
    denoiser: Denoiser,
    optimizer: optax.GradientTransformation,
    image_shape: Sequence[int],
) -> Callable[[PRNGKeyArray], TrainState]:
    """Returns the function key -> state before the first step, for use inside jit."""
    return lambda key: first_state(denoiser.init(key, image_shape), optimizer)


def first_state(params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from initial parameters."""
    # A copy: donation would free an aliased buffer twice.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, ema, optimizer.init(params))


def initial_parameters(
    denoiser: Denoiser, key: PRNGKeyArray, image_shape: Sequence[int], shardings: dict
) -> dict:
    """Draws parameters, each onto the devices that `shardings`, a tree, gives it.

    No device ever holds a whole tree that is to be sharded.
    """
    leaves, structure = jax.tree.flatten(shardings)
    return _draw(denoiser, tuple(image_shape), tuple(leaves), structure)(key)


# Compiling this takes seconds: pre-training and the untrained baseline share it.
@functools.cache
def _draw(denoiser, image_shape, leaves, structure):
    return jax.jit(
        lambda key: denoiser.init(key, image_shape),
        out_shardings=jax.tree.unflatten(structure, leaves),
        compiler_options=compiler.options_for_one_call(),
    )
