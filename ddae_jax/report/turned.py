"""Figures that a reader turns: Plotly draws them in the page, from what is given here.

Their colours of text and lines are the page's, which its script sets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly import graph_objects, offline, subplots

from ddae_jax.report import figures
from ddae_jax.report.figures import Record

_PANEL = 230  # CSS pixels
_ROUND = 4  # significant digits in what the pointer shows


def library() -> str:
    """Plotly's own program, for a page to carry."""
    return offline.get_plotlyjs()


def _laid_out(
    figure: graph_objects.Figure, height: int, hover: str = "closest"
) -> graph_objects.Figure:
    figure.update_layout(
        # The template would repeat a long list of colours in each figure.
        template="none",
        height=height,
        margin={"l": 60, "r": 16, "t": 24, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode=hover,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure


def _line(steps, values, label: str, colour: str, **options) -> graph_objects.Scatter:
    return graph_objects.Scatter(
        x=steps,
        y=values,
        name=label,
        line={"color": colour, "width": 2},
        mode="lines+markers" if len(steps) == 1 else "lines",
        hovertemplate=f"%{{x}}: %{{y:.{_ROUND}g}}",
        **options,
    )


def _curve(records, name, label, colour, **options) -> list[graph_objects.Scatter]:
    """What was logged, faint, under its running mean."""
    steps, values = figures.series(records, name)
    smooth = figures.running_mean(values, max(1, len(values) // 30))
    faint = _line(
        steps, values, label, colour, opacity=0.3, showlegend=False, hoverinfo="skip"
    )
    faint.hovertemplate = None
    return [faint, _line(steps, smooth, label, colour, **options)]


def _scale(traces: Sequence[graph_objects.Scatter]) -> str:
    values = np.concatenate([np.asarray(trace.y, float) for trace in traces])
    wide = values.min() > 0 and values.max() > 10 * values.min()
    return "log" if wide else "linear"


def _css(colour: tuple[float, ...]) -> str:
    return "rgb({})".format(",".join(str(round(255 * part)) for part in colour[:3]))


def panels(
    records: Sequence[Record], groups: figures.Groups
) -> graph_objects.Figure | None:
    """Logged quantities over steps, one panel a group; None where none was logged.

    Args:
      records: one mapping per logged step.
      groups: as of `figures.panels`.
    """
    kept = figures.present(records, groups)
    if not kept:
        return None
    figure = subplots.make_subplots(
        rows=len(kept), cols=1, shared_xaxes=True, vertical_spacing=0.12 / len(kept)
    )
    for row, (title, names) in enumerate(kept, start=1):
        several = len(names) > 1
        drawn = []
        for position, (name, label) in enumerate(names):
            colour = figures.COLOURS[0]
            if several:
                colour = _css(figures.shade(position, len(names)))
            drawn += _curve(
                records, name, label, colour, showlegend=several, legendgroup=title
            )
        for trace in drawn:
            figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(
            title_text=title, type=_scale(drawn), exponentformat="power", row=row, col=1
        )
    figure.update_xaxes(title_text="optimiser step", row=len(kept), col=1)
    return _laid_out(figure, 60 + _PANEL * len(kept), hover="x")


def overlaid(
    runs: Mapping[str, Sequence[Record]], name: str
) -> graph_objects.Figure | None:
    """One logged quantity of several runs over steps; None where none logged it.

    Args:
      runs: label -> its log.
      name: of the quantity.
    """
    logged = {
        label: rows
        for label, rows in runs.items()
        if len(figures.series(rows, name)[0])
    }
    if not logged:
        return None
    figure = graph_objects.Figure()
    for position, (label, rows) in enumerate(logged.items()):
        colour = _css(figures.shade(position, len(logged)))
        figure.add_traces(_curve(rows, name, _text(label), colour, showlegend=True))
    figure.update_yaxes(
        title_text=name, type=_scale(figure.data), exponentformat="power"
    )
    figure.update_xaxes(title_text="optimiser step")
    return _laid_out(figure, 380, hover="x")


def heat_map(cells: Sequence[Mapping[str, Any]]) -> graph_objects.Figure | None:
    """Test accuracy by tap and noise level; None of less than two cells.

    Args:
      cells: of a probe, with "tap", "noise_level", "test" and, if known, "held_out",
        in [0, 1].
    """
    taps = list(dict.fromkeys(cell["tap"] for cell in cells))
    levels = sorted({cell["noise_level"] for cell in cells})
    if len(cells) < 2:
        return None
    tests = np.full((len(taps), len(levels)), np.nan)
    told = np.full(tests.shape, "", object)
    for cell in cells:
        place = taps.index(cell["tap"]), levels.index(cell["noise_level"])
        tests[place] = 100 * cell["test"]
        if cell.get("held_out") is not None:
            told[place] = f"<br>held-out {100 * cell['held_out']:.1f} %"
    figure = graph_objects.Figure(
        graph_objects.Heatmap(
            x=[f"{level:.3g}" for level in levels],
            y=[_text(tap) for tap in taps],
            z=tests,
            customdata=told,
            colorscale="Viridis",
            hoverongaps=False,
            colorbar={"title": {"text": "%"}, "thickness": 12},
            texttemplate="%{z:.1f}" if len(levels) <= 8 else None,
            hovertemplate=(
                "%{y}, noise level %{x}<br>test %{z:.1f} %%{customdata}<extra></extra>"
            ),
        )
    )
    figure.update_xaxes(title_text="noise level (sigma/alpha)", type="category")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return _laid_out(figure, 110 + max(22 * len(taps), 120))


def profile(
    cells: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]
) -> graph_objects.Figure | None:
    """Test accuracy over the taps, a line per noise level; None of less than two taps.

    Args:
      cells: as of `heat_map`.
      baselines: label -> accuracy in [0, 1], drawn as horizontal lines.
    """
    taps = list(dict.fromkeys(cell["tap"] for cell in cells))
    levels = sorted({cell["noise_level"] for cell in cells})
    if len(taps) < 2:
        return None
    figure = graph_objects.Figure()
    for position, level in enumerate(levels):
        found = {
            cell["tap"]: 100 * cell["test"]
            for cell in cells
            if cell["noise_level"] == level
        }
        figure.add_trace(
            graph_objects.Scatter(
                x=[_text(tap) for tap in taps],
                y=[found.get(tap) for tap in taps],
                name=f"noise level {level:.3g}",
                mode="lines+markers",
                line={"color": _css(figures.shade(position, len(levels)))},
                hovertemplate="%{x}: %{y:.1f} %",
            )
        )
    for colour, (label, value) in zip(figures.COLOURS, baselines.items(), strict=False):
        figure.add_trace(
            graph_objects.Scatter(
                x=[_text(taps[0]), _text(taps[-1])],
                y=[100 * value] * 2,
                name=label,
                mode="lines",
                line={"color": colour, "dash": "dot"},
                hovertemplate="%{y:.1f} %",
            )
        )
    figure.update_xaxes(type="category", automargin=True)
    figure.update_yaxes(title_text="test accuracy (%)")
    return _laid_out(figure, 380)


def _text(name: str) -> str:
    """A name as Plotly shows it: in its texts, < begins an element of a few kinds."""
    return str(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
