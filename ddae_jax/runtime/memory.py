"""How much memory there is, asked before much of it is taken.

Linux grants what it does not have, and later kills without a word.
"""

import pathlib

from ddae_jax.errors import UserError

_MEMINFO = pathlib.Path("/proc/meminfo")
_OWN_GROUP = pathlib.Path("/proc/self/cgroup")
_GROUPS = pathlib.Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that this process can still take; None where the system does not tell.

    The least of what the machine has free and what the limits of containers leave.
    """
    found = [_of_machine(), *map(_of_group, _groups())]
    return min((free for free in found if free is not None), default=None)


def check(need: int, what: str, advice: str) -> None:
    """Raises a UserError where `need` bytes are more than is available.

    Args:
      what: needs them.
      advice: what to lower, and to what use.
    """
    free = available()
    if free is not None and need > free:
        amounts = f"about {_shown(need)} of memory, and {_shown(free)} are free"
        raise UserError(f"{what} needs {amounts}; {advice}")


def _shown(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _of_machine() -> int | None:
    for line in _read(_MEMINFO).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _groups() -> list[pathlib.Path]:
    """The folders of the control groups (v2, v1) that this process is in."""
    found = [_GROUPS, _GROUPS / "memory"]
    for line in _read(_OWN_GROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        base = {"": _GROUPS, "memory": _GROUPS / "memory"}.get(controllers)
        if base is not None:
            place = base / path.strip("/")
            found += [place, *(up for up in place.parents if base in up.parents)]
    return found


def _of_group(folder: pathlib.Path) -> int | None:
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        values = [_read(folder / name).strip() for name in (limit, used)]
        if all(value.isdecimal() for value in values):  # no limit is "max"
            statistics = dict(
                line.split() for line in _read(folder / "memory.stat").splitlines()
            )
            # What the system can let go of does not count as used.
            return int(values[0]) - int(values[1]) + int(statistics.get(cache, 0))
    return None


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
