"""The noise levels between which the slider moves."""

import jax.numpy as jnp
import numpy as np

from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.times import Time

_PER_DECADE = 10
# EDM's range; DDPM begins and a flow may end within it.
_LEAST, _MOST = 0.002, 80.0


def of(process: Process, opened_at: Time) -> tuple[Time, ...]:
    """Ten noise levels a decade, as far as the process reaches, in their order.

    Args:
      opened_at: is among them, in place of the nearest.
    """
    count = round(_PER_DECADE * np.log10(_MOST / _LEAST)) + 1
    wanted = np.geomspace(_LEAST, _MOST, count)
    times = process.time_at(jnp.asarray(wanted, jnp.float32))
    reached = np.asarray(process.noise_level(times), np.float64)
    # Out of its range a process gives its first or last time.
    near = np.abs(np.log(reached / wanted)) < np.log(10) / _PER_DECADE / 2
    found = {
        float(time): Time(float(level), float(time), float(level))
        for time, level in zip(np.asarray(times)[near], reached[near], strict=True)
    }
    known = list(found.values())
    if not known:
        return (opened_at,)
    away = [
        abs(np.log(level.noise_level / opened_at.noise_level))
        if opened_at.noise_level > 0
        else level.noise_level
        for level in known
    ]
    known[int(np.argmin(away))] = opened_at
    return tuple(sorted(known, key=lambda level: level.noise_level))
