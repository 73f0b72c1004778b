"""What an evaluation task leaves: NAME.json, NAME.txt and pictures.

All tasks that evaluate write through here, so that the report shows each of them in
the same way, those of other packages too.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from ddae_jax.errors import UserError
from ddae_jax.report import pictures as drawings
from ddae_jax.report import wording
from ddae_jax.runtime import processes
from ddae_jax.runtime.files import replacing

LAYOUT = "shown"
"""JSON's key of the table and the pictures."""
VERSION = 1
"""Of what stands below LAYOUT; it has none in files of version 0.1, which are alike."""
_OURS = ("summary", "protocol", LAYOUT)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TAKEN = ("config", "data", "probe", "report", "samples")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One PNG file of an outcome.

    Attributes:
      caption: one line below the picture.
      content: a figure, an image (uint8, (height, width, 1 or 3)), or a PNG file.
      pixels: keep hard edges when the picture is enlarged.
    """

    caption: str
    content: Figure | np.ndarray | bytes
    pixels: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation task found.

    Attributes:
      title: of its section in the report.
      summary: the result in one line.
      facts: what programs read, JSON-able; "step" and the like.
      protocol: how it was measured: counts, settings, hashes, seed, seconds.
      headers: of the table.
      rows: of the table; floats are shown with four digits.
      pictures: may be none.
      note: what a reader must know beside the numbers; may be empty.
    """

    title: str
    summary: str
    facts: Mapping[str, Any]
    protocol: Mapping[str, Any]
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    pictures: Sequence[Picture] = ()
    note: str = ""


def check_name(name: str) -> None:
    """Raises a UserError where an outcome cannot be called `name`."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:120]!r}: an outcome's name has at most 100 letters, digits, _ . -"
        )
    if name in _TAKEN:
        raise UserError(f"{name!r}: an outcome cannot have this name: the run has it")


def picture_file(name: str, number: int) -> str:
    """File of the picture `number`, from 1: NAME.png, NAME+2.png, NAME+3.png ...

    A "+" is in no name of an outcome: `fid_2` has its own fid_2.png.
    """
    return f"{name}.png" if number == 1 else f"{name}+{number}.png"


def is_picture_of(name: str, file: str) -> bool:
    """Whether a file can be a picture of the outcome, of version 0.1 (NAME_2.png) too.

    So a JSON file that was tampered with names no file outside its workdir.
    """
    return bool(re.fullmatch(rf"{re.escape(name)}([+_][1-9][0-9]*)?\.png", file))


def write(workdir: str | pathlib.Path, name: str, outcome: Outcome) -> None:
    """Writes NAME.json, NAME.txt and the pictures into `workdir`; process 0 does.

    All processes must call it: see `processes.on_first`.

    All of them appear together, the JSON file last; pictures of an earlier outcome of
    this name are removed. In the JSON file, numbers that are not finite are null.

    Raises:
      UserError: see `check_name`.
      ValueError: facts under a key that the layout has.
    """
    check_name(name)
    if taken := set(_OURS) & set(outcome.facts):
        raise ValueError(f"facts of {name}: {sorted(taken)} are keys of every outcome")
    processes.on_first(lambda: _write(pathlib.Path(workdir), name, outcome))
    if jax.process_index() == 0:
        logging.info("%s: %s", name, outcome.summary)


def _write(workdir: pathlib.Path, name: str, outcome: Outcome) -> None:
    files, shown = {}, []
    for number, picture in enumerate(outcome.pictures, 1):
        file = picture_file(name, number)
        content = picture.content
        files[file] = content if isinstance(content, bytes) else drawings.png(content)
        shown.append({"file": file, "caption": picture.caption})
        shown[-1]["pixels"] = picture.pixels
    files[f"{name}.txt"] = text(outcome).encode()
    files[f"{name}.json"] = _json(outcome, shown).encode()
    with contextlib.ExitStack() as stack:
        # Files take their names in the reverse order, when all are written.
        for file, content in reversed(files.items()):
            part = stack.enter_context(replacing(workdir / file))
            part.write_bytes(content)
    for path in (workdir / f"{name}.png", *workdir.glob(f"{name}+*.png")):
        if path.name not in files:
            path.unlink(missing_ok=True)


def text(outcome: Outcome) -> str:
    """Title, summary and the table in columns."""
    lines = [outcome.title, outcome.summary]
    if outcome.note:
        lines.append(outcome.note)
    table = [list(map(str, outcome.headers))]
    table += [[wording.number(cell) for cell in row] for row in outcome.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines.append("")
    for row in table:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += [f"{key}: {value}" for key, value in outcome.protocol.items()]
    return "\n".join(lines) + "\n"


def _json(outcome: Outcome, pictures: Sequence[Mapping]) -> str:
    layout = {
        "version": VERSION,
        "title": outcome.title,
        "headers": list(outcome.headers),
        "rows": [list(row) for row in outcome.rows],
        "pictures": pictures,
        "note": outcome.note,
    }
    content = {
        "summary": outcome.summary,
        **outcome.facts,
        "protocol": dict(outcome.protocol),
        LAYOUT: layout,
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
