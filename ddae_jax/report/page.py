"""One HTML page that stands alone: blocks of content, drawn by the jinja2 templates.

A block holds data and names its template; templates escape all that they are given.
"""

import base64
import dataclasses
import hashlib
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError
from plotly.graph_objects import Figure as PlotlyFigure

from ddae_jax.report import figures, grids, turned
from ddae_jax.report.wording import number

_CSS_PIXELS_PER_INCH = 96
# Half of the page's width: what is wider gets a row of its own.
_COLUMN = 470
TABS = (
    "Explore",
    "Training",
    "Samples",
    "Features",
    "Evaluation",
    "Comparison",
    "Provenance",
)
"""In the order of the page; one without sections is left out."""
_NUMERIC = re.compile(r"–?|[-+]?[\d.,]+(e[-+]?\d+)?( %)?( ± [\d.]+)?|-?inf|nan")


class PageBlock(Protocol):
    """What a section is made of: data, and the name of the template that draws it."""

    template: ClassVar[str]


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str
    template: ClassVar[str] = "paragraph.html"


@dataclasses.dataclass(frozen=True)
class Missing:
    """One sentence: which task produces what is not there."""

    what: str
    task: str
    template: ClassVar[str] = "missing.html"


@dataclasses.dataclass(frozen=True)
class Headline:
    """Large numbers, each with what it means; the first is highlighted."""

    numbers: Sequence[tuple[str, str]]
    template: ClassVar[str] = "headline.html"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; columns of numbers are right-aligned.

    Attributes:
      headers: names of the columns; empty for none.
      rows: cells, the same number in each row.
      chosen: index of the row to highlight.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    chosen: int | None = None
    template: ClassVar[str] = "table.html"

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[number(cell) for cell in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone."""
        columns = zip(*self.cells, strict=True)
        found = [all(map(_NUMERIC.fullmatch, column)) for column in columns]
        return found or [False] * len(self.headers)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values, one pair a line."""

    values: Mapping[str, Any]
    template: ClassVar[str] = "facts.html"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names and values as text."""
        return [(name, number(value)) for name, value in self.values.items()]


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """An image that the page carries in itself.

    Attributes:
      content: the image file.
      alt: what it shows, for those who cannot see it.
      caption: below it; empty for none.
      kind: png or svg+xml.
      width: in the page, in CSS pixels; None is that of the file.
      pixels: keep hard edges where it is enlarged.
    """

    content: bytes
    alt: str
    caption: str = ""
    kind: str = "png"
    width: int | None = None
    pixels: bool = False
    template: ClassVar[str] = "image.html"

    @property
    def source(self) -> str:
        """The file as a data URL."""
        content = base64.b64encode(self.content).decode("ascii")
        return f"data:image/{self.kind};base64,{content}"

    @property
    def wide(self) -> bool:
        """Whether it needs more than half of the page."""
        return (self.width or 0) > _COLUMN


@dataclasses.dataclass(frozen=True)
class Turned:
    """A figure that a reader can zoom and ask; in print and without a script, a still.

    Attributes:
      figure: Plotly's.
      still: the same as a picture, with what it shows and its caption.
    """

    figure: PlotlyFigure
    still: EmbeddedImage
    template: ClassVar[str] = "turned.html"

    @property
    def content(self) -> str:
        """The figure as JSON."""
        return self.figure.to_json()


@dataclasses.dataclass(frozen=True)
class Row:
    """Blocks side by side, one below the other on a narrow screen.

    Attributes:
      small: four of them have room beside each other, and two on a narrow screen.
    """

    blocks: Sequence[PageBlock]
    small: bool = False
    template: ClassVar[str] = "row.html"


@dataclasses.dataclass(frozen=True)
class Folded:
    """Blocks that a click opens."""

    summary: str
    blocks: Sequence[PageBlock]
    template: ClassVar[str] = "folded.html"


@dataclasses.dataclass(frozen=True)
class Preformatted:
    """Text in a fixed-width font."""

    text: str
    template: ClassVar[str] = "preformatted.html"


@dataclasses.dataclass(frozen=True)
class PageSection:
    """A titled card of the page.

    Attributes:
      title: empty for blocks that stand on the page itself.
      tab: of TABS; empty for what stands above them all.
    """

    title: str
    blocks: Sequence[PageBlock]
    tab: str = ""


def figure(drawing: Figure, alt: str, caption: str = "") -> EmbeddedImage:
    """A matplotlib figure as SVG, at the size it was drawn for."""
    width = round(drawing.get_figwidth() * _CSS_PIXELS_PER_INCH)
    return EmbeddedImage(figures.svg(drawing), alt, caption, "svg+xml", width)


def png_file(path: pathlib.Path, caption: str, pixels: bool = False) -> PageBlock:
    """The PNG file at `path`; one that says its resolution is shown at that size.

    A file that is no PNG image is named instead of shown.

    Args:
      caption: below the image.
      pixels: of what says no resolution, enlarge small ones by a whole factor.
    """
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            resolution = image.info.get("dpi")
            width = image.width
    except (UnidentifiedImageError, ValueError, SyntaxError):
        return Paragraph(f"{path.name}: not a PNG image")
    if resolution and resolution[0] > 0:
        width = round(width / resolution[0] * _CSS_PIXELS_PER_INCH)
    elif pixels:
        # A grid of this version has its size; those of earlier ones are tiny.
        factor = grids.whole_factor(width)
        width, pixels = factor * width, factor > 1
    return EmbeddedImage(content, caption, caption, width=width, pixels=pixels)


def render(
    title: str,
    subtitle: str,
    sections: Sequence[PageSection],
    served: bool = False,
) -> str:
    """The whole document.

    Args:
      title, subtitle: plain text.
      sections: in the order of the page, within each tab.
      served: by the task explore, whose script may ask the server for more.
    """
    environment = Environment(
        loader=PackageLoader("ddae_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = ("page.js", "explorer.js") if served else ("page.js",)
    scripts = [environment.loader.get_source(environment, name)[0] for name in names]
    if any(_holds_plots(section.blocks) for section in sections):
        scripts.insert(0, turned.library())
    tabs = [(tab, [part for part in sections if part.tab == tab]) for tab in TABS]
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        above=[part for part in sections if not part.tab],
        tabs=[(tab, inside) for tab, inside in tabs if inside],
        scripts=[(Markup(script), _hash(script)) for script in scripts],
        served=served,
    )


def _holds_plots(blocks: Sequence[PageBlock]) -> bool:
    return any(
        isinstance(block, Turned)
        or (isinstance(block, Row | Folded) and _holds_plots(block.blocks))
        for block in blocks
    )


def _hash(script: str) -> str:
    """The policy of the page lets exactly this script run, whatever a name may hold."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
