"""What the facts of all processes mean: pure functions, the same answer on each."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ddae_jax.settings.preflight import PreflightSettings
from ddae_jax.tasks.preflight.network import AllReduce
from ddae_jax.tasks.preflight.workdir import View

Facts = Mapping[str, Any]
"""What `seen.by_this_process` tells of one process."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
      check: its name.
      value: what was found, JSON-able.
      shown: the same for people.
      trouble: what is wrong, in a few words; empty where all is well.
    """

    check: str
    value: Any
    shown: str
    trouble: str = ""


def machines(everyone: Sequence[Facts], settings: PreflightSettings) -> list[Finding]:
    """Counts against what was asked for, and accelerators that lie idle."""
    hosts = sorted({one["host"] for one in everyone})
    devices = sum(one["devices"] for one in everyone)
    return [
        _count("processes", len(everyone), settings.processes),
        _count("hosts", len(hosts), settings.hosts),
        _count("devices", devices, settings.devices),
        _same_devices(everyone),
        _unused(everyone, settings.allow_unused),
    ]


def sameness(
    everyone: Sequence[Facts], differences: Mapping[int, str]
) -> list[Finding]:
    """The same code, command and settings on all processes."""
    first = everyone[0]
    code = ""
    for index, one in enumerate(everyone):
        other = [
            f"{name} {one['versions'].get(name)}, process 0 {version}"
            for name, version in first["versions"].items()
            if one["versions"].get(name) != version
        ]
        if other:
            code = f"{_who(everyone, index)} has {other[0]}"
        elif one["code"] != first["code"]:
            code = f"{_who(everyone, index)} has other code of ddae_jax than process 0"
        if code:
            break
    settings = ""
    for index, one in enumerate(everyone):
        if index in differences:
            settings = f"{_who(everyone, index)} has {differences[index]} of process 0"
        elif one["words"] != first["words"]:
            settings = (
                f"{_who(everyone, index)} was started with other words than process 0: "
                f"{_apart(one['words'], first['words'])}"
            )
        if settings:
            break
    return [
        Finding("code", first["code"], first["code"][:12], code),
        Finding("settings", first["settings"], first["settings"][:12], settings),
    ]


def workdirs(everyone: Sequence[Facts], views: Sequence[View]) -> Finding:
    """One workdir, seen and written by all."""
    trouble = ""
    for index, view in enumerate(views):
        who = _who(everyone, index)
        if not view.writes:
            trouble = f"{who} cannot write into --workdir"
        elif not (view.sees and view.shows):
            trouble = f"{who} has another --workdir than process 0: put it on a disk "
            trouble += "that all hosts see"
        if trouble:
            break
    seen = sum(view.sees and view.writes and view.shows for view in views)
    return Finding("workdir", seen, f"seen and written by {seen}", trouble)


def disk(everyone: Sequence[Facts]) -> Finding:
    """Space for the checkpoints that pre-training keeps; process 0 writes them."""
    free, needed = everyone[0]["disk_free"], everyone[0]["disk_needed"]
    value = {"free": free, "needed": needed}
    if free is None or needed is None:
        return Finding("disk", value, "not known")
    shown = f"{_size(free)} free, {_size(needed)} for checkpoints"
    trouble = ""
    if free < needed:
        trouble = (
            f"{_size(free)} free in --workdir, but the checkpoints that are kept take "
            f"{_size(needed)} (config.train.keep_latest, keep_every)"
        )
    return Finding("disk", value, shown, trouble)


def data(everyone: Sequence[Facts]) -> Finding:
    """On all processes or on none: a task may be there to make it."""
    lacking = [i for i, one in enumerate(everyone) if one["data_trouble"]]
    shapes = {tuple(one["image_shape"] or ()) for one in everyone}
    if len(lacking) == len(everyone):
        return Finding("data", None, f"not at hand: {everyone[0]['data_trouble']}")
    first = next(one["image_shape"] for one in everyone if one["image_shape"])
    shown, trouble = "x".join(map(str, first)), ""
    if lacking:
        who = _who(everyone, lacking[0])
        trouble = f"{who} lacks the data: {everyone[lacking[0]]['data_trouble']}"
    elif len(shapes) > 1:
        trouble = "the processes have images of different shapes"
    return Finding("data", first, shown, trouble)


def clocks(everyone: Sequence[Facts], offsets: Sequence[float], most: float) -> Finding:
    """Clocks that agree: times in logs, files and certificates rest on them."""
    spread = max(offsets) - min(offsets)
    trouble = ""
    if spread > most:
        index = max(range(len(offsets)), key=lambda i: abs(offsets[i]))
        trouble = (
            f"the clock of {_who(everyone, index)} is {offsets[index]:+.1f} s off that "
            f"of process 0 (config.preflight.clock_seconds={most:g})"
        )
    return Finding("clocks", spread, f"{spread:.3f} s apart", trouble)


def all_reduce(measured: AllReduce, least: float) -> Finding:
    """A sum over all devices that is right, and fast enough."""
    value = dataclasses.asdict(measured) | {"bandwidth": measured.bandwidth}
    if measured.devices == 1:
        return Finding("all-reduce", value, "not needed by one device")
    speed = measured.bandwidth / 1e9
    shown = (
        f"{speed:.3g} GB/s ({measured.bytes / 1e6:.0f} MB in "
        f"{measured.seconds * 1e3:.3g} ms)"
    )
    trouble = ""
    if not measured.right:
        trouble = "the sum over all devices is wrong: a device or a link is broken"
    elif speed < least:
        trouble = (
            f"all-reduce at {speed:.3g} GB/s, below "
            f"config.preflight.least_bandwidth={least:g}"
        )
    return Finding("all-reduce", value, shown, trouble)


def _count(check: str, found: int, wanted: int) -> Finding:
    trouble = ""
    if wanted and found != wanted:
        trouble = f"{found} {check}, but config.preflight.{check}={wanted}"
    return Finding(check, found, str(found), trouble)


def _same_devices(everyone: Sequence[Facts]) -> Finding:
    counts = [one["devices"] for one in everyone]
    shown = " or ".join(map(str, sorted(set(counts))))
    trouble = ""
    if len(set(counts)) > 1:
        common = collections.Counter(counts).most_common(1)[0][0]
        index = next(i for i, count in enumerate(counts) if count != common)
        trouble = (
            f"{_who(everyone, index)} has {counts[index]} devices, others {common}"
        )
    return Finding("devices of a process", counts[0], shown, trouble)


def _unused(everyone: Sequence[Facts], allowed: bool) -> Finding:
    """GPUs and TPU chips that a host has and no process on it uses."""
    idle, total = "", 0
    for host in sorted({one["host"] for one in everyone}):
        here = [one for one in everyone if one["host"] == host]
        gpus = len({gpu for one in here for gpu in one["gpus"]})
        chips = max(one["tpu_chips"] for one in here)
        for kind, there, platform in (("GPU", gpus, "gpu"), ("TPU chip", chips, "tpu")):
            running = {one["platform"] for one in here}
            used = sum(one["devices"] for one in here if one["platform"] == platform)
            lost = max(there - used, 0)
            total += lost
            if lost and not idle:
                runs = ", ".join(sorted(running))
                idle = (
                    f"{lost} of {there} {kind}s of host {host} would be idle: jax runs "
                    f"on {runs} with {sum(one['devices'] for one in here)} devices "
                    f"(install the extra {_EXTRA[kind]}, look at CUDA_VISIBLE_DEVICES "
                    "and JAX_PLATFORMS, or give --config.preflight.allow_unused=True)"
                )
    return Finding("unused", total, str(total), "" if allowed else idle)


_EXTRA = {"GPU": "cuda", "TPU chip": "tpu"}


def _who(everyone: Sequence[Facts], index: int) -> str:
    return f"process {index} ({everyone[index]['host']})"


def _apart(mine: Sequence[str], theirs: Sequence[str]) -> str:
    """The words that only one of two commands has."""
    apart = [word for word in mine if word not in theirs]
    apart += [word for word in theirs if word not in mine]
    return " ".join(apart)[:200] or "in another order"


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
