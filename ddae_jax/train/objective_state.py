"""How what objectives carry begins, and follows from step to step."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import name_hash
from ddae_jax.train.objectives.base import Objective, stopped
from ddae_jax.train.optimizers import Optimizer
from ddae_jax.train.state import ObjectiveState, averaged

_DENOISER = "denoiser"

Named = tuple[tuple[str, Objective], ...]
Rows = tuple[tuple[str, jax.ShapeDtypeStruct], ...]


def first_states(
    key: PRNGKeyArray,
    params: dict,
    objectives: Named,
    denoiser: Denoiser,
    optimizer: Optimizer,
    image_shape: Sequence[int],
    rows: Rows,
) -> dict[str, ObjectiveState]:
    """The states before the first step.

    Args:
      params: of the denoiser at first.
      rows: (OBJECTIVE/NAME, shape of an image's row) of all arrays beside the images.
    """
    states = {}
    if objectives:
        taps = denoiser.tap_shapes(image_shape, tuple(denoiser.network.tap_paths()))
    for name, objective in objectives:
        own = objective.init(
            jax.random.fold_in(key, name_hash(name)),
            denoiser,
            taps,
            {
                path.removeprefix(f"{name}/"): shape
                for path, shape in rows
                if path.startswith(f"{name}/")
            },
        )
        teacher = {}
        if tap := objective.averaged_tap(denoiser):
            flat = flatten_dict(params, sep="/")
            paths = denoiser.used_parameters(image_shape, tap)
            teacher = {_DENOISER: {path: flat[path] for path in paths}}
            teacher |= {part: own[part] for part in objective.averaged}
        # A copy: donation would free an aliased buffer twice.
        teacher = jax.tree.map(jnp.copy, teacher)
        states[name] = ObjectiveState(own, optimizer.init(own), teacher)
    return states


@compiler.jit(
    once=True,
    static_argnames=(
        "objectives",
        "denoiser",
        "optimizer",
        "mesh",
        "image_shape",
        "rows",
    ),
)
def placed_first_states(
    key: PRNGKeyArray,
    params: dict,
    objectives: Named,
    denoiser: Denoiser,
    optimizer: Optimizer,
    image_shape: tuple[int, ...],
    rows: Rows,
    mesh: Mesh,
) -> dict[str, ObjectiveState]:
    """`first_states` on the mesh, sharded as they are trained."""
    states = first_states(
        key, params, objectives, denoiser, optimizer, image_shape, rows
    )
    rules = denoiser.network.partition_rules
    return parallel.constrain(states, parallel.state_shardings(mesh, states, rules))


def teacher_of(state: ObjectiveState, params: dict) -> dict[str, Any]:
    """The averages as `Objective.__call__` takes them, without gradients.

    Args:
      params: of the denoiser: what lies after the tap is filled up with them.
    """
    if not state.teacher:
        return {}
    rest = {name: tree for name, tree in state.teacher.items() if name != _DENOISER}
    flat = flatten_dict(params, sep="/") | state.teacher[_DENOISER]
    return stopped({_DENOISER: unflatten_dict(flat, sep="/"), **rest})


def next_state(
    objective: Objective,
    state: ObjectiveState,
    gradient: dict,
    params: dict,
    optimizer: Optimizer,
) -> ObjectiveState:
    """One optimiser step of an objective's own parameters, then of its averages.

    Args:
      params: of the denoiser, after the step.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    own = optax.apply_updates(state.params, updates)
    teacher = {}
    if state.teacher:
        flat = flatten_dict(params, sep="/")
        current: Mapping[str, Any] = {
            _DENOISER: {path: flat[path] for path in state.teacher[_DENOISER]},
            **{part: own[part] for part in objective.averaged},
        }
        teacher = averaged(state.teacher, current, objective.teacher_decay)
    return ObjectiveState(own, opt_state, teacher)
