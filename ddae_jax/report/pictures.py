"""Pictures made of images by matplotlib: galleries, maps and heat maps, from arrays."""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ddae_jax.report import grids
from ddae_jax.report.figures import INK, TYPE_SIZE
from ddae_jax.report.wording import fit

RIGHT, WRONG = "#15803d", "#dc2626"
_PAGE = 9.2  # inches across
_TALLEST = 2.0  # heights of a tile to its width: a figure has at most 65,535 pixels
_LINE = 1.35 * TYPE_SIZE / 72  # inches of one line of text
_DPI = 192  # two pixels of a file for one of the page


def png(picture: Figure | UInt8[np.ndarray, "height width channels"]) -> bytes:
    """A figure, on white, or a grey or RGB image as a PNG file."""
    if not isinstance(picture, Figure):
        return grids.png(picture)
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image of a gallery.

    Attributes:
      image: uint8, or floats in [0, 1]; (height, width, 1 or 3).
      title: above it; its lines are shortened to its width.
      colour: of title and frame.
      framed: whether it has a frame.
      shape: (height, width) that it is stretched over; None is its own.
    """

    image: np.ndarray
    title: str = ""
    colour: str = INK
    framed: bool = False
    shape: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width over which it is drawn."""
        return self.shape or self.image.shape[:2]


def gallery(
    rows: Sequence[Sequence[Tile]], names: Sequence[str] = (), largest: float = 1.4
) -> Figure:
    """Draws rows of images with hard edges, each at its own aspect.

    Args:
      rows: of equal lengths.
      names: beside the rows; empty for none.
      largest: width of a tile in inches, where the page has room for it.
    """
    count = len(rows[0])
    margin = 0.35 if names else 0.1
    side = min(largest, (_PAGE - margin) / count - 0.1)
    heights = [_row_height(row, side) for row in rows]
    figure = Figure(
        figsize=(margin + count * (side + 0.1), sum(heights) + 0.1),
        layout="constrained",
    )
    figure.patch.set_alpha(0)
    axes = figure.subplots(
        len(rows), count, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for line, row in zip(axes, rows, strict=True):
        for axis, tile in zip(line, row, strict=True):
            _draw_tile(axis, tile, side)
    for line, name, height in zip(axes, names, heights, strict=False):
        shown = fit(name, height, TYPE_SIZE)
        line[0].set_ylabel(shown, fontsize=TYPE_SIZE, color=INK)
    return figure


def _row_height(row: Sequence[Tile], side: float) -> float:
    """Inches of a row, its titles included; what is very tall is drawn narrower."""
    aspect = max(height / width for height, width in (tile.size for tile in row))
    aspect = min(aspect, _TALLEST)
    lines = max(len(tile.title.splitlines()) for tile in row)
    return side * aspect + lines * _LINE + 0.12


def _draw_tile(axis: Axes, tile: Tile, side: float) -> None:
    height, width = tile.size
    image = tile.image
    if image.shape[-1] == 1:
        image = grids.rgb(image)
    # Photographs are made smaller: a pixel in each ten would be noise.
    large = tile.shape is None and width > side * _DPI
    axis.imshow(
        image,
        interpolation="antialiased" if large else "nearest",
        extent=(0, width, height, 0),
    )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(tile.framed)
    if tile.framed:
        axis.spines[:].set_color(tile.colour)
        axis.spines[:].set_linewidth(2.5)
    if tile.title:
        lines = (fit(line, side, TYPE_SIZE) for line in tile.title.splitlines())
        axis.set_title("\n".join(lines), fontsize=TYPE_SIZE, color=tile.colour, pad=3)


def maps(
    images: Sequence[UInt8[np.ndarray, "height width channels"]],
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[Float[np.ndarray, "rows columns 3"]]]],
) -> Figure:
    """One row per image: itself, then its map in each column, over its own aspect.

    Args:
      images: of any sizes.
      names: of the rows.
      columns: title, of one or more lines, and a map per image, colours in [0, 1],
        each of any size.
    """
    rows = []
    for number, image in enumerate(images):
        titles = [title if number == 0 else "" for title, _ in columns]
        first = Tile(image, "" if number else "image")
        drawn = [
            Tile(of_images[number], title, shape=image.shape[:2])
            for title, (_, of_images) in zip(titles, columns, strict=True)
        ]
        rows.append([first, *drawn])
    return gallery(rows, names)


def paint(
    labels: Int[np.ndarray, "*shape"] | UInt8[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape 3"]:
    """A colour in [0, 1] for each class; after the 20th they come again."""
    colours = np.array(matplotlib.colormaps["tab20"].colors)
    # Its colours come in pairs of one hue: first the strong ones, then the pale.
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return colours[order][np.asarray(labels) % 20]


def neighbours(
    queries: UInt8[np.ndarray, "rows height width channels"],
    query_labels: Int[np.ndarray, "rows"],
    found: UInt8[np.ndarray, "rows k height width channels"],
    found_labels: Int[np.ndarray, "rows k"],
    class_names: Sequence[str],
) -> Figure:
    """One row per query: itself, and its neighbours framed by whether they agree.

    Neighbours of another class are named.
    """
    rows = []
    for image, label, others, labels in zip(
        queries, query_labels, found, found_labels, strict=True
    ):
        row = [Tile(image, class_names[label], framed=True)]
        for other, its_label in zip(others, labels, strict=True):
            same = its_label == label
            title = "" if same else class_names[its_label]
            row.append(Tile(other, title, RIGHT if same else WRONG, framed=True))
        rows.append(row)
    return gallery(rows, largest=1.1)


def side_by_side(
    sets: Mapping[str, UInt8[np.ndarray, "_ height width channels"]],
) -> Figure:
    """Each set of images as a grid under its name."""
    return gallery(
        [[Tile(grids.grid(images), name) for name, images in sets.items()]], largest=4.4
    )


def heat_map(
    taps: Sequence[str],
    noise_levels: Sequence[float],
    accuracy: Float[np.ndarray, "taps levels"],
    chosen: tuple[int, int],
    title: str,
    column_names: Sequence[str] = (),
) -> Figure:
    """Accuracy at each tap (rows, shallowest below) and noise level (columns).

    Args:
      noise_levels: sigma/alpha of each column, in any order.
      accuracy: in [0, 1].
      chosen: row and column that get a frame.
      title: above the map.
      column_names: below the columns; empty: the noise levels.
    """
    columns = np.argsort(noise_levels, kind="stable")
    percent = 100 * np.asarray(accuracy)[:, columns]
    rows, count = percent.shape
    width = 2.6 + 0.75 * count
    figure = Figure(figsize=(width, 1.6 + 0.32 * rows), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(percent, origin="lower", aspect="auto", cmap="viridis")
    names = column_names or [f"{level:.3g}" for level in noise_levels]
    labels = [names[column] for column in columns]
    crowded = max(map(len, labels)) > 8
    axes.set_xticks(range(count), labels, rotation=30 if crowded else 0)
    axes.set_yticks(range(rows), taps)
    axes.set_xlabel("noise level (sigma/alpha)")
    axes.set_ylabel("tap")
    letters = int(width * 72 / (0.6 * TYPE_SIZE))
    figure.suptitle(textwrap.fill(title, letters), fontsize=TYPE_SIZE)
    middle = (percent.min() + percent.max()) / 2
    for (row, column), value in np.ndenumerate(percent):
        axes.text(
            column,
            row,
            f"{value:.1f}",
            ha="center",
            va="center",
            fontsize=TYPE_SIZE,
            color="black" if value > middle else "white",
        )
    corner = (list(columns).index(chosen[1]) - 0.5, chosen[0] - 0.5)
    axes.add_patch(
        Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2.5, zorder=3)
    )
    figure.colorbar(image, label="test accuracy (%)")
    return figure
