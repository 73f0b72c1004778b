"""From data to one self-contained HTML page: no file, script or font from outside."""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb;
  --page: #f5f7fa; --card: #ffffff; --accent: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa5b1;
  --line: #323f4b; --page: #12171d; --card: #1b222b; --accent: #60a5fa; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.2rem; }
header h1 { margin: .6rem 0 0; font-size: 1.9rem; }
h2 { margin: 0 0 .7rem; font-size: 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.1rem; margin: 1rem 0; overflow-wrap: anywhere; }
.numbers { display: grid; gap: .8rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.numbers div { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .8rem 1rem; }
.numbers b { display: block; font-size: 1.7rem; line-height: 1.2; }
.numbers .first b { color: var(--accent); }
.row { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; margin: auto; border-radius: 6px; }
img.pixels { width: 100%; max-width: 36rem; image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; min-width: 40%; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; }
tr.chosen td { color: var(--accent); font-weight: 600; }
pre { overflow-x: auto; font-size: .85rem; margin: 0; white-space: pre-wrap; }
summary { cursor: pointer; color: var(--soft); }
"""


def escape(value: Any) -> str:
    """Text of a value, safe inside HTML."""
    return html.escape(str(value))


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def missing(what: str, task: str) -> str:
    """One sentence that says which task would produce what is not there."""
    return (
        f'<p class="soft">No {escape(what)} yet: '
        f"<code>--task={escape(task)}</code> produces it.</p>"
    )


def percent(accuracy: float | None, digits: int = 1) -> str:
    """An accuracy in [0, 1] as a percentage, a dash where it is unknown."""
    if accuracy is None or not math.isfinite(accuracy):
        return "–"
    return f"{100 * accuracy:.{digits}f} %"


def number(value: Any) -> str:
    """A value for a table cell: numbers to four significant digits."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}"


def image(data: bytes, alt: str, kind: str = "png", pixels: bool = False) -> str:
    """An <img> that carries its bytes.

    Args:
      data: the content of the image file.
      alt: what it shows, for those who cannot see it.
      kind: png or svg+xml.
      pixels: keep hard edges when scaled, and use the full width.
    """
    content = base64.b64encode(data).decode("ascii")
    look = ' class="pixels"' if pixels else ""
    source = f"data:image/{kind};base64,{content}"
    return f'<img{look} alt="{escape(alt)}" src="{source}">'


def figure_image(figure: Figure, alt: str) -> str:
    """A matplotlib figure as an embedded SVG image."""
    buffer = io.BytesIO()
    # Without a date, and with fixed names inside, equal data give equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "ddae_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return image(buffer.getvalue(), alt, "svg+xml")


def captioned(content: str, caption: str) -> str:
    """A figure with a caption below."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def side_by_side(parts: Iterable[str]) -> str:
    """Parts in columns, below each other on a narrow screen."""
    return f'<div class="row">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    chosen: int | None = None,
) -> str:
    """A table; columns whose cells look like numbers are right-aligned.

    Args:
      headers: names of the columns.
      rows: cells, as many as headers.
      chosen: index of the row to highlight.
    """
    rows = [[number(cell) for cell in row] for row in rows]

    def numeric(column):
        cells = [row[column] for row in rows]
        return bool(cells) and all(
            cell[:1] in "-–.0123456789" for cell in cells if cell
        )

    look = [' class="number"' if numeric(i) else "" for i in range(len(headers))]

    def line(cells, tag):
        return "".join(
            f"<{tag}{style}>{escape(cell)}</{tag}>"
            for cell, style in zip(cells, look, strict=True)
        )

    body = "".join(
        f"<tr{' class=chosen' if i == chosen else ''}>{line(row, 'td')}</tr>"
        for i, row in enumerate(rows)
    )
    head = f"<thead><tr>{line(headers, 'th')}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def definitions(values: Mapping[str, Any]) -> str:
    """A two-column table of names and values."""
    return table(("", ""), [(name, number(value)) for name, value in values.items()])


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def preformatted(text: str) -> str:
    """Text in a fixed-width font."""
    return f"<pre>{escape(text)}</pre>"


def section(title: str, content: str) -> str:
    """A titled card."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def headline(numbers: Sequence[tuple[str, str]]) -> str:
    """Large numbers with what they mean; the first one is highlighted."""
    boxes = "".join(
        f"<div{' class=first' if i == 0 else ''}><b>{escape(value)}</b>"
        f'<span class="soft">{escape(label)}</span></div>'
        for i, (value, label) in enumerate(numbers)
    )
    return f'<div class="numbers">{boxes}</div>'


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>'
        f"</header>\n" + "\n".join(sections) + "\n</main></body></html>\n"
    )
