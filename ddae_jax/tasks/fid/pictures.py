"""Pictures of the task fid: both sets side by side, and their features' spectra."""

import numpy as np
from matplotlib.figure import Figure

from ddae_jax.metrics.frechet import Statistics
from ddae_jax.report import figures as curves
from ddae_jax.report.outcome import Picture
from ddae_jax.tasks import sample
from ddae_jax.tasks.fid.reference import Reference
from ddae_jax.tasks.fid.samples import Samples


def pictures(samples: Samples, reference: Reference) -> list[Picture]:
    """Some images of both sets, and the eigenvalues of both covariances."""
    caption = f"{len(samples.first)} samples (left)"
    sets = {"samples": samples.first}
    if reference.first is not None:
        caption += f", {len(reference.first)} images of the reference (right)"
        sets["reference"] = reference.first
    return [
        Picture(caption, panels(sets)),
        Picture(
            "Variance of the features along the principal axes of each set",
            spectra(samples.collected.statistics(), reference.statistics),
        ),
    ]


def panels(sets: dict[str, np.ndarray]) -> Figure:
    """Draws each set of uint8 images as a grid under its name."""
    figure = Figure(figsize=(3.2 * len(sets), 3.6), layout="constrained")
    figure.patch.set_alpha(0)
    for axis, (name, images) in zip(
        np.atleast_1d(figure.subplots(1, len(sets))), sets.items(), strict=True
    ):
        axis.imshow(sample.make_grid(images), interpolation="nearest")
        axis.set_title(name, color=curves.INK, fontsize=10)
        axis.set_axis_off()
    return figure


def spectra(samples: Statistics, reference: Statistics) -> Figure:
    """Eigenvalues of both covariances in descending order, on logarithmic axes."""
    figure, (axis,) = curves.new_figure(height=3.2)
    sets = {"samples": samples, "reference": reference}
    for colour, (name, statistics) in zip(curves.COLOURS, sets.items(), strict=False):
        values = np.linalg.eigvalsh(statistics.covariance)[::-1]
        # Rounding leaves tiny eigenvalues, of either sign, where there are none.
        values = values[values > 1e-12 * max(values[0], 1e-30)]
        axis.plot(np.arange(1, len(values) + 1), values, color=colour, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("principal axis")
    axis.set_ylabel("variance")
    curves.legend(axis)
    return figure
