"""One field of the settings: default, bounds, choices and help, written once.

`setting` makes a dataclass field that carries them; `check` holds a value against
them. Sections of settings, networks, processes and samplers all declare their fields
this way, and the ConfigDict, `--help` and the reference page are read off them.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from ddae_jax.errors import UserError

LONGEST_TEXT = 1000
LONGEST_TUPLE = 64
_SAME = object()
_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a field's value may be; of a tuple, each of its values.

    Attributes:
      help: one line for people.
      least, most: closed ends.
      above, below: open ends.
      choices: all that is possible, where that can be listed.
      pattern: regular expression that a text matches as a whole.
      lengths: least and largest number of values of a tuple.
      test: its value in a `:test` variant, or a function of the value there is.
    """

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[Any, ...] | None = None
    pattern: str | None = None
    lengths: tuple[int, int] = (0, LONGEST_TUPLE)
    test: Any = _SAME

    def tested(self, value: Any) -> Any:
        """The field's value in a `:test` variant."""
        if self.test is _SAME:
            return value
        return self.test(value) if callable(self.test) else self.test

    def wanted(self) -> str:
        """The bounds in words, such as "1 to 10"; empty where there are none."""
        low = "" if self.least is None else f"{_number(self.least)} or more"
        low = low if self.above is None else f"above {_number(self.above)}"
        high = "" if self.most is None else f"at most {_number(self.most)}"
        high = high if self.below is None else f"below {_number(self.below)}"
        return ", ".join(part for part in (low, high) if part)


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] | None = None,
    pattern: str | None = None,
    lengths: tuple[int, int] = (0, LONGEST_TUPLE),
    test: Any = _SAME,
) -> Any:
    """Declares a dataclass field; see `Bounds` for the arguments."""
    bounds = Bounds(
        help,
        least,
        most,
        above,
        below,
        None if choices is None else tuple(choices),
        pattern,
        lengths,
        test,
    )
    return dataclasses.field(default=default, metadata={_KEY: bounds})


def declared(cls: type) -> dict[str, tuple[Any, Any, Bounds]]:
    """Name of each field made by `setting` -> (type, default, bounds), in order."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: (hints[field.name], field.default, field.metadata[_KEY])
        for field in dataclasses.fields(cls)
        if _KEY in field.metadata
    }


def sections(cls: type) -> dict[str, type]:
    """Name of each field whose default is a dataclass -> that class, in order."""
    return {
        field.name: type(field.default)
        for field in dataclasses.fields(cls)
        if dataclasses.is_dataclass(field.default)
    }


def declared_within(cls: type) -> dict[str, tuple[Any, Any, Bounds]]:
    """`declared`, followed by that of the sections within, as SECTION.FIELD."""
    found = declared(cls)
    for section, inner in sections(cls).items():
        within = declared_within(inner)
        found |= {f"{section}.{name}": one for name, one in within.items()}
    return found


def check(where: str, value: Any, kind: Any, bounds: Bounds) -> None:
    """Raises a UserError, which names `where`, unless `value` can be used.

    Args:
      kind: the field's type: bool, int, float, str, a tuple of one of them, or one of
        these or None.
    """
    if value is None and optional(kind):
        return
    kind = without_none(kind)
    if typing.get_origin(kind) is tuple:
        _check_tuple(where, value, typing.get_args(kind), bounds)
    else:
        _check_one(where, value, kind, bounds)


def check_all(where: str, instance: Any) -> None:
    """`check` of every declared field of a dataclass; errors name `where`.FIELD.

    Sections within are held against their own class.
    """
    for name, (kind, _, bounds) in declared(type(instance)).items():
        check(f"{where}.{name}", getattr(instance, name), kind, bounds)
    for name, cls in sections(type(instance)).items():
        section = getattr(instance, name)
        if not isinstance(section, cls):
            raise UserError(f"{where}.{name}: {_shown(section)} is no {cls.__name__}")
        check_all(f"{where}.{name}", section)


def optional(kind: Any) -> bool:
    """Whether a field of this type may be None."""
    return isinstance(kind, types.UnionType) and type(None) in typing.get_args(kind)


def without_none(kind: Any) -> Any:
    """The type of a field that is not None."""
    if not optional(kind):
        return kind
    (rest,) = (part for part in typing.get_args(kind) if part is not type(None))
    return rest


def unknown(where: str, given: Any, known: Iterable[Any]) -> str:
    """One line that says what is known, and what was probably meant."""
    known = sorted(map(str, known))
    shown = str(given) if len(str(given)) <= 80 else f"{str(given)[:80]}..."
    near = difflib.get_close_matches(shown, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{where}: unknown {shown!r}.{hint} Known: {', '.join(known)}"


def _check_tuple(where, value, kinds, bounds):
    if not isinstance(value, tuple):
        raise UserError(f"{where}: {_shown(value)} is not a tuple")
    low, high = bounds.lengths
    if not low <= len(value) <= high:
        if not value:
            known = ", ".join(map(str, bounds.choices or ()))
            raise UserError(f"{where}: empty" + (f"; known: {known}" if known else ""))
        numbers = f"{low}" if low == high else f"{low} to {high}"
        raise UserError(f"{where}: {len(value)} values; it takes {numbers}")
    for element in value:
        _check_one(where, element, kinds[0], bounds)


def _check_one(where, value, kind, bounds):
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 62 else math.inf
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{where}: {_shown(value)} is not {_NAMES[kind]}")
    if bounds.choices is not None and value not in bounds.choices:
        raise UserError(unknown(where, value, bounds.choices))
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise UserError(f"{where}: text of {len(value)} characters")
        if "\0" in value or "\n" in value:
            raise UserError(f"{where}: {value!r} is not a single line of text")
        if bounds.pattern is not None and not re.fullmatch(bounds.pattern, value):
            raise UserError(
                f"{where}: {_shown(value)} is not of the form {bounds.pattern}: it "
                f"{bounds.help}"
            )
        return
    if isinstance(value, bool):
        return
    holds = (
        value == value  # not NaN; math.isnan takes no large integer
        and (bounds.least is None or value >= bounds.least)
        and (bounds.most is None or value <= bounds.most)
        and (bounds.above is None or value > bounds.above)
        and (bounds.below is None or value < bounds.below)
    )
    if not holds:
        raise UserError(f"{where}: {_shown(value)} is not {bounds.wanted()}")


def _number(value: float) -> str:
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return f"{int(value):,}" if whole else f"{value:g}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_NAMES: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
}
