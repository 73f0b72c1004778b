"""The collectives of a compiled program, counted in its HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

_BITS = re.compile(r"[a-z]+(\d+)")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALL = re.compile(
    rf"= (?P<result>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<half>-start|-done)?\("
)
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over groups of one size, in one step.

    Attributes:
      kind: one of KINDS.
      group: devices that take part in one.
      stride: between their numbers: 1 where they lie beside each other.
      count: operations.
      bytes: that the whole array has, on one device, of all operations together: what
        an all-reduce sums, an all-gather results in, a reduce-scatter takes.
    """

    kind: str
    group: int
    stride: int
    count: int
    bytes: int


def count(hlo: str, devices: int) -> tuple[Collective, ...]:
    """Counts the collectives in the text of a compiled program.

    Those in the body of a loop count once. The two halves of an asynchronous one are
    one.

    Args:
      devices: that take part in one which names no groups.
    """
    found: dict[tuple[str, int, int], list[int]] = {}
    for line in hlo.splitlines():
        call = _CALL.search(line)
        if call is None or call["half"] == "-done":
            continue
        group = _group(line, devices)
        if len(group) == 1:  # nothing is sent
            continue
        key = call["kind"], len(group), group[1] - group[0]
        held = found.setdefault(key, [0, 0])
        held[0] += 1
        held[1] += _whole(call, len(group))
    return tuple(Collective(*key, *held) for key, held in sorted(found.items()))


def total(collectives: Iterable[Collective], kind: str) -> int:
    """Bytes of all collectives of a kind, over groups of any size."""
    return sum(one.bytes for one in collectives if one.kind == kind)


def _group(line: str, devices: int) -> list[int]:
    """The numbers of the devices of the first group."""
    counted = _COUNTED.search(line)
    if counted:
        shape, sizes, order = (_integers(part) for part in counted.groups(default=""))
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        return numbers.transpose(order or None).reshape(shape)[0].tolist()
    listed = _LISTED.search(line)
    return _integers(listed[1]) if listed and listed[1] else list(range(devices))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _whole(call: re.Match, group: int) -> int:
    sizes = [_size(*shape) for shape in _SHAPE.findall(call["result"])]
    if call["half"] and call["kind"] in ("all-gather", "collective-permute"):
        sizes = sizes[len(sizes) // 2 :]  # the result names the operands first
    return sum(sizes) * (group if call["kind"] == "reduce-scatter" else 1)


def _size(dtype: str, dimensions: str) -> int:
    bits = _BITS.fullmatch(dtype)
    each = int(bits[1]) // 8 if bits else 1  # pred has no number
    return each * math.prod(_integers(dimensions))
