"""What all processes do together: compare settings and clocks, sum arrays."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ddae_jax.runtime import compiler, parallel, processes
from ddae_jax.settings import plain
from ddae_jax.settings.root import Settings

_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class AllReduce:
    """One sum over all devices.

    Attributes:
      devices: that took part.
      bytes: of each device's array.
      seconds: of the fastest round.
      right: whether the sum is what it must be, here.
    """

    devices: int
    bytes: int
    seconds: float
    right: bool

    @property
    def bandwidth(self) -> float:
        """Bytes a second that each device sends in a ring: nccl-tests' "busbw"."""
        return self.bytes * 2 * (self.devices - 1) / self.devices / self.seconds


def differences(settings: Settings, everyone: Sequence[dict]) -> dict[int, str]:
    """Process -> the first field that it has otherwise than process 0.

    They exchange the settings themselves only where the hashes differ.
    """
    if len({one["settings"] for one in everyone}) == 1:
        return {}
    flat = processes.gather(plain.flatten(plain.of_settings(settings)), "settings")
    first, found = flat[0], {}
    for index, one in enumerate(flat):
        for field in sorted(first.keys() | one.keys()):
            if one.get(field) != first.get(field):
                mine, theirs = (f"{each.get(field)!r}"[:80] for each in (one, first))
                found[index] = f"config.{field}={mine}, not {theirs}"
                break
    return found


def clock_offsets() -> list[float]:
    """Seconds by which the clock of each process goes before that of process 0.

    As exact as the processes leave a barrier together.
    """
    rounds = []
    for _ in range(_ROUNDS):
        parallel.all_processes(True)
        rounds.append(processes.gather(time.time(), "the time"))
    offsets = np.array(rounds) - np.array(rounds)[:, :1]
    return np.median(offsets, axis=0).tolist()


def time_all_reduce(mesh: Mesh, megabytes: int) -> AllReduce:
    """Sums an array of each device over all devices, and takes the time."""
    shape = (mesh.size, megabytes * 1_000_000 // 4)

    def rows(index):
        row = np.arange(mesh.size, dtype=np.float32)[index[0], None]
        return np.broadcast_to(row, (len(row), shape[1]))

    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    arrays = jax.make_array_from_callback(shape, split, rows)
    add = compiler.jit(_sum, out_shardings=parallel.replicated(mesh))
    total = jax.block_until_ready(add(arrays))  # compiles
    seconds = []
    for _ in range(_ROUNDS):
        parallel.all_processes(True)
        began = time.perf_counter()
        total = jax.block_until_ready(add(arrays))
        seconds.append(time.perf_counter() - began)
    here = np.asarray(total.addressable_shards[0].data)
    wanted = mesh.size * (mesh.size - 1) / 2
    right = bool((here == wanted).all())
    return AllReduce(mesh.size, shape[1] * 4, min(seconds), right)


def _sum(rows: Float[Array, "devices n"]) -> Float[Array, " n"]:
    return jnp.sum(rows, axis=0)
