"""Numbers and cells of a probe's grid as text, the same in files and on the page."""

import math
from collections.abc import Mapping
from typing import Any


def percent(accuracy: float | None, digits: int = 1) -> str:
    """An accuracy in [0, 1] as a percentage, a dash where it is unknown."""
    if accuracy is None or not math.isfinite(accuracy):
        return "–"
    return f"{100 * accuracy:.{digits}f} %"


def number(value: Any) -> str:
    """A value for a table cell: floats to four significant digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def short(name: str) -> str:
    """The name of a cell; of more than three joined taps the first and the last."""
    taps = name.split("+")
    return name if len(taps) < 4 else f"{taps[0]}+...+{taps[-1]} ({len(taps)})"


def noise_levels(cell: Mapping) -> str:
    """The noise level of a cell, or those that it joins."""
    levels = cell.get("noise_levels", [cell["noise_level"]])
    return "+".join(f"{level:.4g}" for level in levels)


def fit(text: str, inches: float, points: float) -> str:
    """Shortens text to a width, by its beginning: the end of a path says more.

    Args:
      points: size of the type, whose letters are 0.6 as wide on average.
    """
    room = max(int(inches * 72 / (0.6 * points)), 2)
    return text if len(text) <= room else f"…{text[1 - room :]}"
