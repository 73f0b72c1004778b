"""Times that a user names, by published index or by noise level."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ddae_jax.diffusion.process import Process
from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Time:
    """A time of a process, as it was named and as it is.

    Attributes:
      given: what the user named: a published time, or a noise level.
      time: the process's own.
      noise_level: sigma/alpha.
      joined: the times whose features this one's concatenate; empty: its own alone.
    """

    given: float | int
    time: float
    noise_level: float
    joined: tuple["Time", ...] = ()

    def levels(self) -> list[float]:
        """Noise levels of all joined times, or its own."""
        return [time.noise_level for time in self.joined or (self,)]

    def fields(self) -> dict[str, Any]:
        """What files of results say of it, JSON-able."""
        fields = {
            "given": self.given,
            "time": self.time,
            "noise_level": self.noise_level,
        }
        if self.joined:
            fields["times"] = [time.time for time in self.joined]
            fields["noise_levels"] = self.levels()
        return fields


def resolve(
    process: Process,
    times: Sequence[int | float],
    noise_levels: Sequence[float],
    field: str,
    levels_field: str,
) -> tuple[Time, ...]:
    """Returns the times at `noise_levels`, or, where that is empty, the named `times`.

    Args:
      times: as `process.official_time` takes them.
      field, levels_field: what errors call `times` and `noise_levels`.

    Raises:
      UserError: a time that the process does not have or that its network cannot take
        (EDM's 0: ln 0), a noise level out of reach, or one time twice.
    """
    if noise_levels:
        field = levels_field
        found = [at_level(process, level, field) for level in noise_levels]
    else:
        found = [official(process, index, field) for index in times]
    seen: dict[float, Time] = {}
    for time in found:
        if time.time in seen:
            raise UserError(
                f"{field}: {seen[time.time].given} and {time.given} are the same time "
                f"{time.time:g} of the process"
            )
        seen[time.time] = time
    return tuple(found)


def official(process: Process, index: int | float, field: str) -> Time:
    """Returns the process's time that the published code calls `index`.

    Args:
      field: what errors call it.

    Raises:
      UserError: the process has no such time, or its network cannot take it.
    """
    try:
        time = process.official_time(index)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    times = jnp.array([time], jnp.float32)
    level = float(process.noise_level(times)[0])
    _, network_time = process.network_inputs(jnp.zeros((1, 1, 1, 1)), times)
    if not math.isfinite(level) or not math.isfinite(float(network_time[0])):
        raise UserError(
            f"{field}: {index} has noise level {level:g}, at which the network cannot "
            "be evaluated"
        )
    return Time(int(index) if index == int(index) else index, time, level)


def at_level(process: Process, level: float, field: str) -> Time:
    """Returns the process's time at a positive noise level.

    Args:
      field: what errors call it.

    Raises:
      UserError: the process does not get near that noise level.
    """
    time = process.time_at(jnp.array([level], jnp.float32))
    reached = float(process.noise_level(time)[0])
    # Neighbouring times of DDPM differ by a factor of 1.6 at most.
    if not 2 / 3 < reached / level < 1.5:
        raise UserError(
            f"{field}: {level:g} is out of the process's range; the nearest is "
            f"{reached:.3g}"
        )
    return Time(level, float(time[0]), reached)
