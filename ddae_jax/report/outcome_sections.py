"""The page's part about what evaluation tasks left, whichever task it was."""

import pathlib
from collections.abc import Sequence

from ddae_jax.report import outcome, page
from ddae_jax.runtime.files import read_json

_TAB = "Evaluation"


def sections(
    workdir: pathlib.Path, order: Sequence[str] = ()
) -> list[page.PageSection]:
    """A section for each outcome in the workdir.

    Args:
      order: names of tasks. Outcomes that are called after one (NAME or NAME_MORE)
        stand in this order; all others follow, by name.
    """
    names = [path.stem for path in workdir.glob("*.json") if path.is_file()]
    ranks = {name: _rank(name, order) for name in names}
    shown = (section(workdir, name) for name in sorted(names, key=ranks.__getitem__))
    return [found for found in shown if found is not None]


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    # The longest task counts: "noisy_classifier" is not one of a task "noisy".
    found = [task for task in order if name == task or name.startswith(f"{task}_")]
    return (order.index(max(found, key=len)) if found else len(order)), name


def section(workdir: pathlib.Path, name: str) -> page.PageSection | None:
    """What `outcome.write` left under this name; None where that is nothing."""
    content = read_json(workdir / f"{name}.json") or {}
    if outcome.LAYOUT not in content:
        return None
    try:
        return _section(workdir, name, content)
    except (AttributeError, KeyError, TypeError, ValueError):
        reason = f"{name}.json: it is not as this version writes it"
        return page.PageSection(name, [page.Paragraph(reason)], _TAB)


def _section(workdir: pathlib.Path, name: str, content: dict) -> page.PageSection:
    layout = content[outcome.LAYOUT]
    if layout.get("version", 0) > outcome.VERSION:
        newer = f"{name}.json: written by a newer version of ddae_jax"
        return page.PageSection(layout["title"], [page.Paragraph(newer)], _TAB)
    blocks = [page.Paragraph(content["summary"])]
    if layout["note"]:
        blocks.append(page.Paragraph(layout["note"]))
    pictures = []
    for picture in layout["pictures"]:
        path = workdir / picture["file"]
        if outcome.is_picture_of(name, picture["file"]) and path.is_file():
            shown = page.png_file(path, picture["caption"], bool(picture["pixels"]))
            pictures.append(shown)
    if pictures:
        blocks.append(page.Row(pictures))
    rows = [list(row) for row in layout["rows"]]
    if any(len(row) != len(layout["headers"]) for row in rows):
        raise ValueError("rows of other lengths than the headers")
    blocks.append(page.Table(list(layout["headers"]), rows))
    how = page.Facts(dict(content["protocol"]))
    blocks.append(page.Folded("How it was measured", [how]))
    return page.PageSection(str(layout["title"]), blocks, _TAB)
