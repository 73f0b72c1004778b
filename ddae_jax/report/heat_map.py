"""The heat map of a probe: accuracy by tap and noise level."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ddae_jax.runtime.files import replacing


def heat_map(
    path: str | pathlib.Path,
    taps: Sequence[str],
    noise_levels: Sequence[float],
    accuracy: Float[np.ndarray, "taps levels"],
    chosen: tuple[int, int],
    title: str,
    column_names: Sequence[str] = (),
) -> None:
    """Writes a PNG of accuracy at each tap (rows, shallowest below) and noise level.

    Args:
      path: is replaced as a whole.
      noise_levels: sigma/alpha of each column, in any order.
      accuracy: in [0, 1].
      chosen: row and column that get a frame.
      title: above the map.
      column_names: below the columns; empty: the noise levels.
    """
    columns = np.argsort(noise_levels, kind="stable")
    percent = 100 * np.asarray(accuracy)[:, columns]
    rows, count = percent.shape
    figure = Figure(
        figsize=(2.6 + 0.75 * count, 1.6 + 0.32 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(percent, origin="lower", aspect="auto", cmap="viridis")
    names = column_names or [f"{level:.3g}" for level in noise_levels]
    labels = [names[column] for column in columns]
    axes.set_xticks(range(count), labels)
    axes.set_yticks(range(rows), taps)
    axes.set_xlabel("noise level (sigma/alpha)")
    axes.set_ylabel("tap")
    axes.set_title(title, fontsize="medium")
    middle = (percent.min() + percent.max()) / 2
    for row in range(rows):
        for column in range(count):
            value = percent[row, column]
            axes.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize="small",
                color="black" if value > middle else "white",
            )
    corner = (list(columns).index(chosen[1]) - 0.5, chosen[0] - 0.5)
    axes.add_patch(
        Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2.5, zorder=3)
    )
    figure.colorbar(image, label="test accuracy (%)")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)
