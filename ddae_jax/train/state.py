"""What training carries from step to step, and how the EMA follows."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import compiler, parallel, piecewise
from ddae_jax.train.optimizers import Optimizer


@flax.struct.dataclass
class ObjectiveState:
    """What an objective carries from step to step.

    Attributes:
      params: that it trains beside the denoiser's.
      opt_state: of their optimiser.
      teacher: averages: "denoiser" -> path -> array, of the denoiser up to a tap; and
        name -> tree, of those of its own that are averaged. {}: none.
    """

    params: dict
    opt_state: optax.OptState
    teacher: dict


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: optimiser steps done.
    params: the parameters being trained, float32.
    ema: their exponential moving average, float32: what samples and features use.
    opt_state: of the optax optimiser.
    objectives: name -> what a term of the loss beside the denoising loss carries.
    """

    step: Int[Array, ""]
    params: dict
    ema: dict
    opt_state: optax.OptState
    objectives: dict[str, ObjectiveState] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class ClassifierState:
    """What training a classifier carries, which has no EMA.

    Attributes:
      step: optimiser steps done.
      params: of the network or the heads, float32.
      opt_state: of the optax optimiser.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState


def ema_decay(step: Int[Array, ""], cap: float, warmup: bool) -> Float[Array, ""]:
    """Decay of the EMA update after optimiser step `step` (counted from 0).

    With warm-up 1 - (1 + step)^(-2/3), at most `cap`: as in the ema_pytorch
    package, which the published weights went through. Step 0 copies the parameters.
    """
    if not warmup:
        return jnp.float32(cap)
    return jnp.minimum(cap, 1 - (1 + step.astype(jnp.float32)) ** (-2 / 3))


def averaged(average: Any, new: Any, decay: float | Float[Array, ""]) -> Any:
    """The average after one more tree."""
    # In this form parameters that never change stay bitwise what they are.
    return jax.tree.map(lambda a, n: a + (1 - decay) * (n - a), average, new)


def create(
    denoiser: Denoiser,
    optimizer: Optimizer,
    image_shape: Sequence[int],
) -> Callable[[PRNGKeyArray], TrainState]:
    """Returns the function key -> state before the first step, for use inside jit."""
    return lambda key: first_state(denoiser.init(key, image_shape), optimizer)


def first_state(params: dict, optimizer: Optimizer) -> TrainState:
    """The state before the first step, from initial parameters."""
    # A copy: donation would free an aliased buffer twice.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, ema, optimizer.init(params))


def initial_parameters(
    denoiser: Denoiser, key: PRNGKeyArray, image_shape: Sequence[int], shardings: dict
) -> dict:
    """Draws parameters, each onto the devices that `shardings`, a tree, gives it.

    The numbers are the same on any number of devices, and no device ever holds a whole
    tree that is to be sharded.
    """
    places, structure = jax.tree.flatten(shardings)
    drawn = piecewise.results(denoiser.init_program(image_shape), key)
    return structure.unflatten(
        _placed(leaf, place) for leaf, place in zip(drawn, places, strict=True)
    )


def _placed(leaf: Array, sharding: Sharding) -> Array:
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    return parallel.place(np.asarray(leaf), sharding)


@compiler.jit(once=True, static_argnames=("optimizer", "mesh", "rules"))
def placed_first_state(
    params: dict, optimizer: Optimizer, mesh: Mesh, rules: parallel.Rules = ()
) -> TrainState:
    """`first_state` on the mesh, sharded as it is trained."""
    state = first_state(params, optimizer)
    return parallel.constrain(state, parallel.state_shardings(mesh, state, rules))


def abstract(
    init: Callable[..., Any],
    mesh: Mesh,
    *arguments: Any,
    rules: parallel.Rules = (),
) -> Any:
    """The shapes of init(*arguments), with the shardings that a state has on a mesh."""
    shapes = jax.eval_shape(init, *arguments)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        parallel.state_shardings(mesh, shapes, rules),
    )
