"""Which tap and noise level a task reads, where it reads one."""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.times import Time, at_level
from ddae_jax.errors import UserError
from ddae_jax.experiment import common

# Where the published probes are best, for DDPM and EDM alike (reference/ddae.md).
_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Cell:
    """A tap at a time.

    Attributes:
      tap: its name.
      time: the process's own, and its noise level.
      chosen_by: what chose it, for the protocol.
    """

    tap: str
    time: Time
    chosen_by: str


def choose(
    config: ConfigDict, section: str, workdir: pathlib.Path, denoiser: Denoiser
) -> Cell:
    """Reads config.SECTION.tap and .noise_level.

    What is not given ("" and 0) is what the probe of this workdir chose; where there
    was no probe, the tap behind the middle, at noise level 0.05.

    Raises:
      UserError: a tap or noise level that does not exist.
    """
    settings = config[section]
    taps = tuple(denoiser.network.tap_paths())
    probed = _probed(workdir)
    if settings.tap:
        tap, tap_by = settings.tap, "config"
    elif probed:
        tap, tap_by = probed["tap"], "probe.json"
        if tap not in taps:
            raise UserError(
                f"{workdir / 'probe.json'}: the probe chose {tap}, which is no single "
                f"tap; set config.{section}.tap"
            )
    else:
        tap, tap_by = taps[len(taps) // 2], "default"
    if settings.noise_level:
        field = f"config.{section}.noise_level"
        time = at_level(denoiser.process, settings.noise_level, field)
        time_by = "config"
    elif probed:
        time = Time(*(probed[key] for key in ("given", "time", "noise_level")))
        time_by = "probe.json"
    else:
        field = f"config.{section}.noise_level"
        time, time_by = at_level(denoiser.process, _LEVEL, field), "default"
    return Cell(tap, time, f"tap: {tap_by}, noise level: {time_by}")


def _probed(workdir: pathlib.Path) -> dict | None:
    """The cell that the probe chose on held-out images; None without a probe."""
    try:
        return common.read_json(workdir, "probe.json")["chosen"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
