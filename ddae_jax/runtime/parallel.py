"""Devices and processes: the mesh, and how arrays lie on it."""

import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from einops import rearrange
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, PyTree, Shaped

from ddae_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
TENSOR = "tensor"
"""The axis whose devices hold the same images, and each a part of every product."""
Rules = tuple[tuple[str, PartitionSpec], ...]
"""(regular expression found in a parameter's path, how its axes lie on TENSOR)."""
# Smaller parameters are copied to every device: gathering them costs more than they.
FSDP_MIN_SIZE = 1 << 12


def all_processes(flag: bool) -> bool:
    """Whether `flag` holds on every process; none goes on before all are here."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def make_mesh(fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Returns all devices as a ("data", "fsdp", "tensor") mesh.

    Each process holds one contiguous slice of a batch, which is what it reads: its
    devices lie together, in an order that follows how they are connected, those of an
    axis "tensor" beside each other. An axis "fsdp" that goes beyond one process takes
    the processes in their order, which on TPU slices is that of the hosts' places.

    One order over the whole slice, as jax.make_mesh has it, would cut hosts apart, and
    gains little: what all devices sum has no order to the compilers of collectives.

    Raises:
      UserError: the number of devices is no multiple of `fsdp` x `tensor`; or a process
        has devices that are no multiple of `tensor`.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    local = len(devices) // jax.process_count()
    if local % tensor:
        raise UserError(
            f"config.mesh.tensor: {local} devices of a process cannot be split by "
            f"{tensor}"
        )
    if len(devices) % (fsdp * tensor):
        beside = f" x {tensor} (config.mesh.tensor)" if tensor > 1 else ""
        raise UserError(
            f"config.mesh.fsdp: {len(devices)} devices cannot be split by "
            f"{fsdp}{beside}"
        )
    types = (AxisType.Auto,) * 3
    within = fsdp if local % (fsdp * tensor) == 0 else 1
    blocks = [
        jax.make_mesh(
            (local // (within * tensor), within, tensor),
            (*BATCH_AXES, TENSOR),
            axis_types=types,
            devices=devices[start : start + local],
        ).devices
        for start in range(0, len(devices), local)
    ]
    grid = rearrange(np.concatenate(blocks), "d w t -> (d w) t")
    grid = rearrange(grid, "(d f) t -> d f t", f=fsdp)
    return Mesh(grid, (*BATCH_AXES, TENSOR), axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis `axis` is split over all devices but those of "tensor", which repeat it."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts `batch_sharding` splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(field: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a UserError where a batch cannot be split evenly over the devices."""
    if batch_size % batch_parts(mesh):
        raise UserError(
            f"{field}: {batch_size} cannot be split over {batch_parts(mesh)} devices"
        )


def state_shardings(
    mesh: Mesh,
    shapes: PyTree[Array | np.ndarray | jax.ShapeDtypeStruct],
    rules: Rules = (),
) -> PyTree[NamedSharding]:
    """Shards a state: over "tensor" by rules, the rest of large arrays over "fsdp".

    "fsdp" takes the largest axis that divides and that no rule has taken. The moments
    of an optimiser and an EMA have the parameters' paths in theirs, and lie like them.

    Args:
      shapes: a tree of arrays or ShapeDtypeStructs.
      rules: of the network whose parameters are in the tree; the first that is found in
        a path counts. An axis that does not divide is not split.
    """

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = _over_tensor(mesh, rules, name, leaf.shape)
        size = mesh.shape["fsdp"]
        axes = [
            axis
            for axis, length in enumerate(leaf.shape)
            if spec[axis] is None and length % size == 0
        ]
        if size > 1 and leaf.size >= FSDP_MIN_SIZE and axes:
            spec[max(axes, key=lambda axis: leaf.shape[axis])] = "fsdp"
        while spec and spec[-1] is None:
            spec.pop()
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def _over_tensor(mesh: Mesh, rules: Rules, name: str, shape: Sequence[int]) -> list:
    spec = next((spec for rule, spec in rules if re.search(rule, name)), ())
    spec = [*spec, *[None] * (len(shape) - len(spec))]
    size = mesh.shape[TENSOR]
    return [
        axis if axis is not None and size > 1 and length % size == 0 else None
        for axis, length in zip(spec, shape, strict=True)
    ]


def bytes_per_device(
    shapes: PyTree[Array | jax.ShapeDtypeStruct], shardings: PyTree[Sharding]
) -> tuple[int, int]:
    """Returns the bytes (that each device holds, of these in arrays that all hold)."""

    def held(leaf, sharding):
        count = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        return np.array([count, count if sharding.is_fully_replicated else 0])

    found = jax.tree.leaves(jax.tree.map(held, shapes, shardings))
    whole, repeated = sum(found, np.zeros(2, int)).tolist()
    return whole, repeated


def split_axis(
    x: Shaped[Array, "..."], axis: int, mesh: Mesh | None, name: str | None = TENSOR
) -> Shaped[Array, "..."]:
    """Lays one axis out over a mesh axis, inside a compiled function.

    Args:
      axis: of `x`; the others stay as the compiler has them. It is left alone too where
        it does not divide.
      mesh: None: nothing is done.
      name: of the mesh's axis; None: every device has the whole axis.
    """
    if mesh is None or (name is not None and x.shape[axis] % mesh.shape[name]):
        return x
    spec = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = name
    return constrain(x, NamedSharding(mesh, PartitionSpec(*spec)))


def constrain(
    tree: PyTree[Array], shardings: PyTree[Sharding] | Sharding
) -> PyTree[Array]:
    """Lays a tree out over the mesh, inside a compiled function.

    Args:
      shardings: a tree of shardings, or one for all arrays.
    """
    return jax.lax.with_sharding_constraint(tree, shardings)


def place(array: Shaped[np.ndarray, "..."], sharding: Sharding) -> Shaped[Array, "..."]:
    """Puts an array that every process holds whole onto the mesh."""
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])


def place_state(
    mesh: Mesh, tree: PyTree[np.ndarray], rules: Rules = ()
) -> PyTree[Array]:
    """Puts a tree that every process holds whole onto the mesh as `state_shardings`.

    A device gets its own part of each array alone.
    """
    return jax.tree.map(place, tree, state_shardings(mesh, tree, rules))


def on_host(tree: PyTree[Array | np.ndarray]) -> PyTree[np.ndarray]:
    """Returns numpy copies of global arrays, on every process."""

    def fetch(array):
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)
