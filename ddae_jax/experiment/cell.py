"""Which tap and noise level a task reads, where it reads one."""

import dataclasses

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.times import Time, at_level
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment

# Where the published probes are best, for DDPM and EDM alike (reference/ddae.md).
NOISE_LEVEL = 0.05
_PROBE = "probe.json"


@dataclasses.dataclass(frozen=True)
class TapAtTime:
    """A tap at a time.

    Attributes:
      tap: its name.
      time: the process's own, and its noise level.
      chosen_by: what chose it, for the protocol.
    """

    tap: str
    time: Time
    chosen_by: str


def choose(experiment: Experiment, section: str, denoiser: Denoiser) -> TapAtTime:
    """Reads config.SECTION.tap and .noise_level.

    What is not given ("" and 0) is what the probe of this workdir chose; where there
    was no probe, the middle tap, at noise level 0.05.

    Raises:
      UserError: a tap or noise level that does not exist.
    """
    settings = experiment.settings.section(section)
    taps = tuple(denoiser.network.tap_paths())
    found = probed(experiment)
    if settings.tap:
        tap, tap_by = settings.tap, "config"
    elif found:
        # A probe of joined taps chose none of them.
        joined = found["tap"].split("+")
        tap, tap_by = joined[len(joined) // 2], "probe.json"
        if len(joined) > 1:
            tap_by = "the middle of those that the probe joined"
        if tap not in taps:
            raise UserError(
                f"{experiment.workdir / _PROBE}: this network has no tap {tap}; set "
                f"config.{section}.tap"
            )
    else:
        tap, tap_by = taps[len(taps) // 2], "default"
    if settings.noise_level:
        field = f"config.{section}.noise_level"
        time = at_level(denoiser.process, settings.noise_level, field)
        time_by = "config"
    elif found:
        time = Time(*(found[key] for key in ("given", "time", "noise_level")))
        time_by = "probe.json"
    else:
        field = f"config.{section}.noise_level"
        time, time_by = at_level(denoiser.process, NOISE_LEVEL, field), "default"
    return TapAtTime(tap, time, f"tap: {tap_by}, noise level: {time_by}")


def probed(experiment: Experiment) -> dict | None:
    """The cell that the probe chose on held-out images; None without a probe."""
    try:
        return experiment.read_json(_PROBE)["chosen"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
