"""What an evaluation task leaves behind: NAME.json, NAME.txt and pictures.

All tasks that evaluate write through here, so that the report shows each of them in
the same way.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from matplotlib.figure import Figure

from ddae_jax.report import page as report
from ddae_jax.runtime.files import replacing

# JSON's key of the table and pictures; a task's own figures keep clear of them.
_LAYOUT = "shown"


@dataclasses.dataclass(frozen=True)
class Picture:
    """One PNG file of an outcome.

    Attributes:
      caption: one line below the picture.
      content: a matplotlib figure, or the bytes of a PNG.
      pixels: keep hard edges when the picture is enlarged.
    """

    caption: str
    content: Figure | bytes
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
      pictures: at least one.
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


def write(workdir: str | pathlib.Path, name: str, outcome: Outcome) -> None:
    """Writes `workdir`/NAME.json, NAME.txt, NAME.png, NAME_2.png ...; process 0 alone.

    The JSON file is written last and whole: where it is, all of it is.
    """
    if jax.process_index() != 0:
        return
    workdir = pathlib.Path(workdir)
    files = []
    for number, picture in enumerate(outcome.pictures, 1):
        file = f"{name}.png" if number == 1 else f"{name}_{number}.png"
        _replace(workdir / file, _png(picture.content))
        shown = {"file": file, "caption": picture.caption, "pixels": picture.pixels}
        files.append(shown)
    _replace(workdir / f"{name}.txt", text(outcome).encode())
    layout = {
        "title": outcome.title,
        "headers": list(outcome.headers),
        "rows": [list(row) for row in outcome.rows],
        "pictures": files,
        "note": outcome.note,
    }
    content = {
        "summary": outcome.summary,
        **outcome.facts,
        "protocol": dict(outcome.protocol),
        _LAYOUT: layout,
    }
    _replace(workdir / f"{name}.json", (json.dumps(content, indent=2) + "\n").encode())
    logging.info("%s: %s", name, outcome.summary)


def text(outcome: Outcome) -> str:
    """Title, summary and the table in columns."""
    lines = [outcome.title, outcome.summary]
    if outcome.note:
        lines.append(outcome.note)
    table = [list(map(str, outcome.headers))]
    table += [[report.number(cell) for cell in row] for row in outcome.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines.append("")
    for row in table:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    lines += [f"{key}: {value}" for key, value in outcome.protocol.items()]
    return "\n".join(lines) + "\n"


def section(workdir: pathlib.Path, name: str) -> str | None:
    """The report's section about what `write` left; None where there is nothing."""
    try:
        content = json.loads((workdir / f"{name}.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    layout = content[_LAYOUT]
    parts = [report.paragraph(content["summary"])]
    if layout["note"]:
        parts.append(report.paragraph(layout["note"]))
    pictures = []
    for picture in layout["pictures"]:
        path = workdir / picture["file"]
        if path.is_file():
            shown = report.image(
                path.read_bytes(), picture["caption"], pixels=picture["pixels"]
            )
            pictures.append(report.captioned(shown, picture["caption"]))
    parts.append(report.side_by_side(pictures))
    parts.append(report.table(layout["headers"], layout["rows"]))
    how = report.definitions(content["protocol"])
    parts.append(report.folded("How it was measured", how))
    return report.section(layout["title"], "".join(parts))


def _png(content: Figure | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    buffer = io.BytesIO()
    # Without a colour of its own a figure could not be read outside the report.
    content.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def _replace(path: pathlib.Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)
