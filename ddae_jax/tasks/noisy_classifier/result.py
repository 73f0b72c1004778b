"""noisy_classifier.json, .txt and .png: accuracy against noise level, both curves."""

import pathlib
from collections.abc import Mapping

from matplotlib.figure import Figure

from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime.files import read_json

CURVE = "curve.json"
KINDS = ("features", "wide_resnet")
_PUBLISHED_NETWORK = {"depth": 28, "widen": 10}
_PUBLISHED_EPOCHS = {"features": 15, "wide_resnet": 200}


def write(workdir: pathlib.Path, name: str, measured: str) -> None:
    """Writes workdir/NAME.json and so on, from the curves below workdir/NAME.

    Args:
      measured: the kind whose curve is new. Another joins it where it was tested on
        the same images, at the same times.
    """
    found = {kind: _read(workdir / name / kind) for kind in KINDS}
    new = found[measured]
    shown = {
        kind: curve
        for kind, curve in found.items()
        if curve is not None
        and all(curve[key] == new[key] for key in ("tested_on", "times"))
    }
    names = [curve["name"] for curve in shown.values()]
    tested_on = new["tested_on"]
    columns = [curve["accuracies"] for curve in shown.values()]
    facts = {
        kind: {key: value for key, value in curve.items() if key != "tested_on"}
        for kind, curve in shown.items()
    }
    features = shown.get("features")
    outcome.write(
        workdir,
        name,
        outcome.Outcome(
            title="Classifiers of noisy images",
            summary="; ".join(map(_summary, shown.values())),
            facts={
                # Of the denoiser; a network from scratch does not know it.
                "step": features and features["trained_by"]["checkpoint_step"],
                "curves": facts,
            },
            protocol={
                **{k: v for k, v in tested_on.items() if k != "process"},
                "process": ", ".join(
                    f"{k} {v}" for k, v in tested_on["process"].items()
                ),
                **{
                    f"{curve['name']}: {key}": value
                    for curve in shown.values()
                    for key, value in curve["trained_by"].items()
                },
            },
            headers=("time", "noise level", *(f"{each} (%)" for each in names)),
            rows=[
                (time, level, *(100 * accuracy for accuracy in accuracies))
                for time, level, *accuracies in zip(
                    new["times"], new["noise_levels"], *columns, strict=True
                )
            ],
            pictures=(
                outcome.Picture(
                    "Test accuracy against the noise level",
                    figure(shown, tested_on["class_count"]),
                ),
            ),
            note=_note(shown),
        ),
    )


def figure(shown: Mapping[str, Mapping], class_count: int) -> Figure:
    """Test accuracy of each curve against the noise level, and that of guessing."""
    drawing, (axis,) = curves.new_figure(height=3.4)
    for colour, marker, curve in zip(
        curves.COLOURS, "os", shown.values(), strict=False
    ):
        points = sorted(zip(curve["noise_levels"], curve["accuracies"], strict=True))
        levels, accuracies = zip(*points, strict=True)
        axis.plot(
            levels,
            [100 * accuracy for accuracy in accuracies],
            f"{marker}-",
            color=colour,
            markersize=4,
            label=curve["name"],
        )
    guessing = 100 / class_count
    axis.axhline(guessing, color=curves.INK, linestyle=":", label="guessing")
    axis.set_xscale("log")
    axis.set_xlabel("noise level (sigma/alpha)")
    axis.set_ylabel("test accuracy (%)")
    curves.legend(axis)
    return drawing


def _read(folder: pathlib.Path) -> dict | None:
    return read_json(folder / CURVE)


def _summary(curve: Mapping) -> str:
    level, accuracy = min(
        zip(curve["noise_levels"], curve["accuracies"], strict=True),
        key=lambda point: point[0],
    )
    mean = sum(curve["accuracies"]) / len(curve["accuracies"])
    return (
        f"{curve['name']}: {100 * mean:.2f} % over {len(curve['accuracies'])} noise "
        f"levels, {100 * accuracy:.2f} % at {level:.3g}"
    )


def _note(shown: Mapping[str, Mapping]) -> str:
    """How the run falls short of the publication."""
    sentences = []
    for kind, curve in shown.items():
        trained_by = curve["trained_by"]
        if any(trained_by.get(k, v) < v for k, v in _PUBLISHED_NETWORK.items()):
            sentences.append(
                f"{curve['name']} is smaller than the published WRN-28-10."
            )
        epochs, published = trained_by["epochs"], _PUBLISHED_EPOCHS[kind]
        if epochs < published:
            sentences.append(
                f"{curve['name']} was trained for {epochs} of the published "
                f"{published} epochs."
            )
        if trained_by.get("latents"):
            sentences.append(
                "The features are of noisy latents; a network from scratch sees noisy "
                "pixels."
            )
    return " ".join(sentences)
