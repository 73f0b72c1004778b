"""Traces of the device by jax.profiler, read back operation by operation."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Hashable, Iterable

import jax

_INSTRUCTION = re.compile(r"%?([\w.-]+) = .*?op_name=\"([^\"]*)\"")
_CONTAINERS = ("while", "call", "conditional")  # their own operations are traced
_END = "end: "


@dataclasses.dataclass(frozen=True)
class Operation:
    """One run of an operation of the compiled program; nanoseconds of the trace."""

    name: str
    start: float
    end: float


def start(folder: str | pathlib.Path) -> None:
    """Begins a trace into `folder`, without Python's own calls."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    jax.profiler.start_trace(str(folder), profiler_options=options)


def operations(folder: str | pathlib.Path) -> list[Operation]:
    """What ran on the first device of this process, of the newest trace in `folder`.

    On a CPU, on all of them. Empty where the backend traces no operations.
    """
    files = sorted(pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in (*devices, *planes):
        if found := _of_plane(plane):
            return found
    return []


def _of_plane(plane):
    begun, ends = [], collections.defaultdict(list)
    for line in plane.lines:
        for event in line.events:
            if event.name.startswith(_END):
                ends[event.name.removeprefix(_END)].append(event.end_ns)
                continue
            name = dict(event.stats).get("hlo_op")
            if name and not name.startswith(_CONTAINERS):
                begun.append(Operation(name, event.start_ns, event.end_ns))
    return list(_with_ends(begun, ends))


def _with_ends(begun, ends):
    """XLA:CPU begins an operation, and notes its end apart, maybe by another thread."""
    for times in ends.values():
        times.sort(reverse=True)
    for one in sorted(begun, key=lambda operation: operation.start):
        noted = ends.get(one.name)
        while noted and noted[-1] < one.start:
            noted.pop()
        yield dataclasses.replace(one, end=noted.pop()) if noted else one


def scopes(program: str) -> dict[str, str]:
    """Name of each operation of a compiled program's text -> where it stands in the
    code: jax's scopes, flax's modules, and the primitive, with slashes between."""
    found = (_INSTRUCTION.search(line) for line in program.splitlines())
    return {match[1]: match[2] for match in found if match}


def seconds_by(
    runs: Iterable[tuple[Hashable, float, float]],
) -> dict[Hashable, float]:
    """Key -> seconds, of (key, start, end) in nanoseconds.

    Where several run at a time, each gets an equal part: the sum is the time in which
    anything ran.
    """
    edges = []
    for key, begin, end in runs:
        edges += [(begin, 1, key), (end, -1, key)]
    edges.sort(key=lambda edge: edge[0])
    running, total = collections.Counter(), collections.Counter()
    before, count = 0.0, 0
    for now, change, key in edges:
        if count and now > before:
            for one, times in running.items():
                total[one] += (now - before) * times / count
        before, count = now, count + change
        running[key] += change
        if not running[key]:
            del running[key]
    return {key: nanoseconds / 1e9 for key, nanoseconds in total.items()}
