"""Curves: matplotlib drawings of what a run logged, in type of one readable size.

Figures are made without pyplot, so nothing global is touched and no display is needed.
"""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Dark grey for files, which are white; `svg` lets the page choose it.
INK = "#52606d"
_INK_ON_DARK = "#b8c2cc"
# Each has a contrast of 3.5 or more with the page's white and with its dark card.
COLOURS = ("#3b82f6", "#e8590c", "#0f9d6b", "#c64be0", "#a3820a", "#e5484d")
_ORDERED = ("#8b5cf6", "#3b82f6", "#1098ad", "#0f9d6b", "#a3820a", "#e8590c")
TYPE_SIZE = 10.0  # points: 13.3 pixels of the page, where a figure is not scaled
WIDTH = 4.6  # inches: half of the page

Record = Mapping[str, float]
Groups = Sequence[tuple[str, Sequence[tuple[str, str]]]]
"""Titles, each with names of logged quantities and what they are called."""

NORMS: Groups = [
    (name.replace("_", " "), [(name, name)])
    for name in ("gradient_norm", "parameter_norm", "update_norm")
]
SPEED: Groups = [
    ("images/s", [("images_per_second", "images/s")]),
    ("share of peak FLOP/s", [("peak_share", "share")]),
]


def new_figure(panels: int = 1, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Returns a figure with `panels` axes one below the other, `height` inches each."""
    figure = Figure(figsize=(WIDTH, height * panels), layout="constrained")
    figure.patch.set_alpha(0)
    axes = list(np.atleast_1d(figure.subplots(panels, 1, sharex=True)))
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.grid(color=INK, alpha=0.25, linewidth=0.6)
        axis.tick_params(colors=INK, which="both", labelsize=TYPE_SIZE)
        for label in (axis.xaxis.label, axis.yaxis.label):
            label.set_color(INK)
            label.set_fontsize(TYPE_SIZE)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
    return figure, axes


def legend(axis: Axes) -> None:
    """Names the lines above the axis, where they hide none of them."""
    _, labels = axis.get_legend_handles_labels()
    letters = max(map(len, labels), default=0)
    # Of 4 inches between the axis and the edge, a letter takes 0.6 of its size.
    columns = int(4 * 72 / ((0.6 * letters + 3.2) * TYPE_SIZE))
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=max(min(columns, len(labels)), 1),
        frameon=False,
        labelcolor=INK,
        fontsize=TYPE_SIZE,
        handlelength=1.4,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def shade(position: int, count: int) -> tuple[float, float, float, float]:
    """Colour of line `position` of `count` that have an order, such as taps."""
    ordered = LinearSegmentedColormap.from_list("ordered", _ORDERED)
    return ordered(position / max(count - 1, 1))


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file, its ink light where the reader's page is dark."""
    buffer = io.BytesIO()
    # Without a date, and with fixed names inside, equal data give equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "ddae_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode().replace(INK, "currentColor")
    style = (
        f"<style>:root {{ color: {INK} }} @media (prefers-color-scheme: dark) "
        f"{{ :root {{ color: {_INK_ON_DARK} }} }}</style>"
    )
    start = text.index(">", text.index("<svg")) + 1
    return (text[:start] + style + text[start:]).encode()


def series(
    records: Sequence[Record], name: str
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Returns steps and finite values of one logged quantity, in order of steps.

    A step that was logged twice, before and after a resumption, counts once: the last.
    """
    found = {}
    for record in records:
        value = record.get(name)
        if isinstance(value, int | float) and np.isfinite(value) and "step" in record:
            found[record["step"]] = value
    steps = np.array(sorted(found), float)
    return steps, np.array([found[step] for step in steps], float)


def running_mean(
    values: Float[np.ndarray, "points"], window: int
) -> Float[np.ndarray, "points"]:
    """Mean over the last `window` values; over fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def _draw(axis: Axes, records, name: str, label: str, colour) -> None:
    steps, values = series(records, name)
    axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
    smooth = running_mean(values, max(1, len(values) // 30))
    # A line through one point cannot be seen.
    marker = "o" if len(steps) == 1 else None
    axis.plot(steps, smooth, color=colour, linewidth=1.6, label=label, marker=marker)


def _logarithmic(axis: Axes) -> None:
    values = np.concatenate([line.get_ydata() for line in axis.lines])
    if values.min() > 0 and values.max() > 10 * values.min():
        axis.set_yscale("log")


def losses(records: Sequence[Record]) -> Groups:
    """The loss, and the loss by noise level: "loss" and "loss/LOW-HIGH"."""
    levels = sorted(
        {name for record in records for name in record if name.startswith("loss/")},
        key=lambda name: float(name.removeprefix("loss/").split("-")[0]),
    )
    by_level = [
        (name, name.removeprefix("loss/").replace("-", " – ")) for name in levels
    ]
    return [("loss", [("loss", "loss")]), ("loss by noise level", by_level)]


def present(records: Sequence[Record], groups: Groups) -> Groups:
    """The groups without the quantities that were not logged."""
    kept = []
    for title, names in groups:
        logged = [pair for pair in names if len(series(records, pair[0])[0])]
        if logged:
            kept.append((title, logged))
    return kept


def panels(records: Sequence[Record], groups: Groups) -> Figure | None:
    """Logged quantities over steps, one panel a group; None where none was logged.

    Args:
      records: one mapping per logged step.
    """
    kept = present(records, groups)
    if not kept:
        return None
    figure, axes = new_figure(len(kept), height=2.4)
    for axis, (title, names) in zip(axes, kept, strict=True):
        for position, (name, label) in enumerate(names):
            colour = shade(position, len(names)) if len(names) > 1 else COLOURS[0]
            _draw(axis, records, name, label, colour)
        axis.set_ylabel(title)
        _logarithmic(axis)
        if len(names) > 1:
            legend(axis)
    axes[-1].set_xlabel("optimiser step")
    return figure


def overlaid_figure(runs: Mapping[str, Sequence[Record]], name: str) -> Figure | None:
    """One logged quantity of several runs over steps; None where none logged it.

    Args:
      runs: label -> its log, one mapping per logged step.
      name: of the quantity.
    """
    present = {
        label: rows for label, rows in runs.items() if len(series(rows, name)[0])
    }
    if not present:
        return None
    figure, (axis,) = new_figure(height=3.4)
    for position, (label, rows) in enumerate(present.items()):
        _draw(axis, rows, name, label, shade(position, len(present)))
    _logarithmic(axis)
    axis.set_xlabel("optimiser step")
    axis.set_ylabel(name)
    legend(axis)
    return figure


def accuracy_figure(
    cells: Sequence[Mapping], chosen_tap: str | None, baselines: Mapping[str, float]
) -> Figure | None:
    """Test accuracy against noise level: the best tap of each level, the chosen tap.

    The best tap of a level is the one best on the held-out images where those are
    known. Baselines are horizontal lines.

    Args:
      cells: with "tap", "noise_level", "test" and, if known, "held_out", in [0, 1].
      chosen_tap: drawn as its own curve; None for none.
      baselines: label -> accuracy in [0, 1].
    """
    cells = [cell for cell in cells if "test" in cell and "noise_level" in cell]
    levels = sorted({cell["noise_level"] for cell in cells})
    if len(levels) < 2:
        return None
    figure, (axis,) = new_figure(height=3.4)
    best = [
        max(
            (cell for cell in cells if cell["noise_level"] == level),
            key=lambda cell: cell.get("held_out", cell["test"]),
        )["test"]
        for level in levels
    ]
    axis.plot(
        levels, 100 * np.array(best), "o-", color=COLOURS[0], label="best tap per level"
    )
    curve = sorted(
        (cell["noise_level"], 100 * cell["test"])
        for cell in cells
        if cell["tap"] == chosen_tap
    )
    if curve:
        axis.plot(*zip(*curve, strict=True), "s--", color=COLOURS[1], label=chosen_tap)
    for colour, (label, value) in zip(COLOURS[2:], baselines.items(), strict=False):
        axis.axhline(
            100 * value, color=colour, linewidth=1.2, linestyle=":", label=label
        )
    if levels[0] > 0:
        axis.set_xscale("log")
    axis.set_xlabel("noise level (sigma/alpha)")
    axis.set_ylabel("test accuracy (%)")
    legend(axis)
    return figure


def profile(cells: Sequence[Mapping], baselines: Mapping[str, float]) -> Figure:
    """Test accuracy over the taps, a line per noise level.

    Args:
      cells: with "tap", "noise_level" and "test", in [0, 1].
      baselines: label -> accuracy in [0, 1], drawn as horizontal lines.
    """
    taps = list(dict.fromkeys(cell["tap"] for cell in cells))
    levels = sorted({cell["noise_level"] for cell in cells})
    figure, (axis,) = new_figure(height=3.4)
    for position, level in enumerate(levels):
        found = [
            (taps.index(cell["tap"]), 100 * cell["test"])
            for cell in cells
            if cell["noise_level"] == level
        ]
        colour = shade(position, len(levels))
        axis.plot(*zip(*found, strict=True), "o-", color=colour, label=f"{level:.3g}")
    for colour, (label, value) in zip(COLOURS, baselines.items(), strict=False):
        axis.axhline(100 * value, color=colour, linestyle=":", label=label)
    axis.set_xticks(range(len(taps)), taps, rotation=90)
    axis.set_ylabel("test accuracy (%)")
    legend(axis)
    return figure


def spectra_figure(variances: Mapping[str, Float[np.ndarray, "_"]]) -> Figure:
    """Variance along the principal axes of each set, on logarithmic axes.

    Args:
      variances: name of a set -> eigenvalues of its covariance, in any order. Those
        that are nothing but rounding are left out.
    """
    figure, (axis,) = new_figure(height=3.2)
    for colour, (name, values) in zip(COLOURS, variances.items(), strict=False):
        values = np.sort(values)[::-1]
        values = values[values > 1e-12 * max(values[0], 1e-30)]
        axis.plot(np.arange(1, len(values) + 1), values, color=colour, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("principal axis")
    axis.set_ylabel("variance")
    legend(axis)
    return figure
