"""Devices and processes: the mesh, and how arrays lie on it."""

import jax
import numpy as np
from einops import rearrange
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, PyTree, Shaped

from ddae_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
# Smaller parameters are copied to every device: gathering them costs more than they.
FSDP_MIN_SIZE = 1 << 12


def all_processes(flag: bool) -> bool:
    """Whether `flag` holds on every process; none goes on before all are here."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def make_mesh(fsdp: int = 1) -> Mesh:
    """Returns all devices as a ("data", "fsdp") mesh.

    Each process holds one contiguous slice of a batch: its devices lie together, in an
    order that follows how they are connected. An axis "fsdp" that goes beyond one
    process takes the processes in their order.

    Raises:
      UserError: the number of devices is no multiple of `fsdp`.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if len(devices) % fsdp:
        raise UserError(
            f"config.mesh.fsdp: {len(devices)} devices cannot be split by {fsdp}"
        )
    types = (AxisType.Auto, AxisType.Auto)
    local = len(devices) // jax.process_count()
    if local % fsdp:
        grid = rearrange(np.array(devices), "(d f) -> d f", f=fsdp)
    else:
        blocks = [
            jax.make_mesh(
                (local // fsdp, fsdp),
                BATCH_AXES,
                axis_types=types,
                devices=devices[start : start + local],
            ).devices
            for start in range(0, len(devices), local)
        ]
        grid = np.concatenate(blocks)
    return Mesh(grid, BATCH_AXES, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis `axis` is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), BATCH_AXES))


def check_batch_size(field: str, batch_size: int, mesh: Mesh) -> None:
    """Raises a UserError where a batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(
            f"{field}: {batch_size} cannot be split over {mesh.size} devices"
        )


def state_shardings(
    mesh: Mesh, shapes: PyTree[Array | np.ndarray | jax.ShapeDtypeStruct]
) -> PyTree[NamedSharding]:
    """Shards each large array over "fsdp" along its largest axis that divides.

    Args:
      shapes: a tree of arrays or ShapeDtypeStructs.
    """
    size = mesh.shape["fsdp"]

    def sharding(leaf):
        axes = [i for i, length in enumerate(leaf.shape) if length % size == 0]
        if size == 1 or leaf.size < FSDP_MIN_SIZE or not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*([None] * axis), "fsdp"))

    return jax.tree.map(sharding, shapes)


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


def place_state(mesh: Mesh, tree: PyTree[np.ndarray]) -> PyTree[Array]:
    """Puts a tree that every process holds whole onto the mesh as `state_shardings`.

    A device gets its own part of each array alone.
    """
    return jax.tree.map(place, tree, state_shardings(mesh, tree))


def on_host(tree: PyTree[Array | np.ndarray]) -> PyTree[np.ndarray]:
    """Returns numpy copies of global arrays, on every process."""

    def fetch(array):
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)
