"""How the report shows what fine-tuning came to."""

import math
import pathlib

from matplotlib.figure import Figure

from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime.files import read_json


def outcome_of(facts: dict, protocol: dict, workdir: pathlib.Path) -> outcome.Outcome:
    """What the report shows of one fine-tuned or trained network.

    Args:
      facts: as the task's JSON file has them, with "curve", one row a measurement.
      workdir: its probe's accuracy is drawn beside the curve.
    """
    accuracy, count = facts["test"], protocol["test_images"]
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    start = "random weights" if facts["from_scratch"] else f"step {facts['step']}"
    title = "From scratch" if facts["from_scratch"] else "Fine-tuning"
    if protocol["label_fraction"] < 1:
        title += f" on {100 * protocol['label_fraction']:g} % of the labels"
    rows = [
        (int(row["epoch"]), row["loss"], row["test_accuracy"], row["test_accuracy_raw"])
        for row in facts["curve"]
    ]
    return outcome.Outcome(
        title,
        f"test accuracy {100 * accuracy:.2f} % from {start}, {facts['data']}, "
        f"{facts['tap']} at noise level {facts['noise_level']:.3g}, "
        f"{protocol['train_images']} labels",
        facts | {"test_sampling_error": error},
        protocol,
        ("epoch", "training loss", "test accuracy, EMA", "test accuracy, raw weights"),
        rows,
        [outcome.Picture("Loss and test accuracy by epoch", _figure(facts, workdir))],
        "Accuracy of the EMA weights after the last epoch; no epoch was chosen by it.",
    )


def _figure(facts: dict, workdir: pathlib.Path) -> Figure:
    figure, (loss, accuracy) = curves.new_figure(2)
    epochs = [row["epoch"] for row in facts["curve"]]
    for axis, name, label, colour in (
        (loss, "loss", "training loss", 0),
        (accuracy, "test_accuracy_raw", "raw weights", 1),
        (accuracy, "test_accuracy", "EMA", 0),
    ):
        scale = 1 if axis is loss else 100
        values = [scale * row[name] for row in facts["curve"]]
        axis.plot(epochs, values, ".-", color=curves.COLOURS[colour], label=label)
    probe = (read_json(workdir / "probe.json") or {}).get("chosen", {})
    if "test" in probe:
        line = {"color": curves.COLOURS[2], "linestyle": ":", "label": "linear probe"}
        accuracy.axhline(100 * probe["test"], **line)
    loss.set_ylabel("training loss")
    accuracy.set_ylabel("test accuracy (%)")
    accuracy.set_xlabel("epoch")
    curves.legend(accuracy)
    return figure
