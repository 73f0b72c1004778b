"""What a probe found, for reading: probe.txt and the map of its accuracies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddae_jax.report import pictures
from ddae_jax.report.wording import noise_levels, short


def heat_map(report: Mapping[str, Any]) -> Figure:
    """The test accuracies of probe.json's cells by tap and noise level."""
    chosen, cells = report["chosen"], report["cells"]
    rows = tuple(dict.fromkeys(cell["tap"] for cell in cells))
    shown = [cell for cell in cells if cell["tap"] == rows[0]]  # one a time
    times = [cell["time"] for cell in shown]
    found = {(cell["tap"], cell["time"]): cell["test"] for cell in cells}
    levels = [cell.get("noise_levels", [cell["noise_level"]]) for cell in shown]
    return pictures.heat_map(
        [short(row) for row in rows],
        [cell["noise_level"] for cell in shown],
        np.array([[found[row, time] for time in times] for row in rows]),
        (rows.index(chosen["tap"]), times.index(chosen["time"])),
        f"{report['data']}, step {report['step']}; framed: chosen on held-out images",
        ["+".join(f"{level:.3g}" for level in each) for each in levels],
    )


def table(report: Mapping[str, Any]) -> str:
    """The content of probe.json as text."""
    counts = report["protocol"]
    lines = [
        f"Probe of {report['data']}, checkpoint of step {report['step']}",
        f"classifier {counts['classifier']}; {counts['train_images']} training, "
        f"{counts['held_out_images']} held-out and {counts['test_images']} test "
        f"images; seeds {', '.join(map(str, report['seeds']))}",
        "accuracies in %, mean over the seeds; * chosen on the held-out images",
        "",
        f"{'features':24} {'time':>8} {'noise level':>11} {'held-out':>9} {'test':>7}",
    ]
    parts = {"trained": report} | report["baselines"]
    for name, part in parts.items():
        chosen = (part["chosen"]["tap"], part["chosen"]["time"])
        for cell in part["cells"]:
            mark = " *" if (cell["tap"], cell["time"]) == chosen else ""
            lines.append(f"{_row(name, cell)}{mark}")
        lines.append("")
    lines.append("test accuracy of the chosen cell")
    for name, part in parts.items():
        lines.append(f"  {name:10} {_outcome(part['chosen'])}")
    best = report["best_on_test"]
    lines.append(
        f"as published, chosen on the test set (biased upwards): {_outcome(best)}"
    )
    return "\n".join(lines) + "\n"


def _row(name: str, cell: dict) -> str:
    label = name if cell["tap"] == name else f"{name} {short(cell['tap'])}"
    return (
        f"{label:24} {cell['time']:8.4g} {noise_levels(cell):>11} "
        f"{100 * cell['held_out']:9.2f} {100 * cell['test']:7.2f}"
    )


def _outcome(cell: dict) -> str:
    text = f"{100 * cell['test']:.2f}"
    if cell["standard_error"] is not None:
        text += f" +- {100 * cell['standard_error']:.2f} (standard error)"
        each = ", ".join(f"{100 * value:.2f}" for value in cell["test_by_seed"])
        text += f", by seed {each}"
    return f"{text} at {short(cell['tap'])}, noise level {noise_levels(cell)}"
