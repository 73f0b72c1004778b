"""The probes' part of the report."""

import json
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from ddae_jax.report import figures as curves
from ddae_jax.report import page as report
from ddae_jax.tasks.probe.table import noise_levels, short

_TITLES = {
    "ridge": "Ridge probe",
    "knn": "Nearest neighbours",
    "attentive": "Attentive probe",
}


def read(workdir: pathlib.Path, name: str) -> dict | None:
    """Content of a JSON file; None where it is missing or was cut short."""
    try:
        return json.loads((workdir / name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _chosen(result: Mapping) -> Mapping:
    """The cell that was chosen on held-out images, of a probe or of a baseline."""
    return result.get("chosen") or {}


def _with_error(cell: Mapping) -> str:
    """Test accuracy, with its standard error over seeds where there are several."""
    text = report.percent(cell.get("test"))
    error = cell.get("standard_error")
    return f"{text} ± {100 * error:.1f}" if error else text


def _baselines(probe: Mapping) -> dict[str, Mapping]:
    """Label -> the chosen cell of each baseline that was measured."""
    labels = {"pixels": "raw pixels", "untrained": "same network, untrained"}
    found = probe.get("baselines") or {}
    known = [name for name in labels if name in found]
    others = [name for name in found if name not in labels]
    cells = {labels.get(name, name): _chosen(found[name]) for name in known + others}
    return {label: cell for label, cell in cells.items() if "test" in cell}


def _setting(cell: Mapping) -> str:
    """Where in the grid a cell lies, in words."""
    if cell.get("tap") == "pixels":
        return "clean image"
    parts = [short(str(cell["tap"]))] if "tap" in cell else []
    if "noise_level" in cell:
        parts.append(f"noise level {noise_levels(cell)}")
    return ", ".join(parts)


def headline(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The probe's accuracy beside its two baselines."""
    probe = read(workdir, "probe.json")
    chosen = _chosen(probe or {})
    if "test" not in chosen:
        return report.missing("linear probe", "probe")
    numbers = [(_with_error(chosen), f"test accuracy, probe at {_setting(chosen)}")]
    numbers += [(_with_error(cell), label) for label, cell in _baselines(probe).items()]
    return report.headline(numbers)


def probe_figures(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """Heat map of tap x noise level, and accuracy against noise level."""
    probe = read(workdir, "probe.json")
    if not probe:
        return report.section("Linear probe", report.missing("linear probe", "probe"))
    parts = []
    heat_map = workdir / "probe.png"
    if heat_map.is_file():
        picture = report.image(heat_map.read_bytes(), "accuracy by tap and noise level")
        parts.append(report.captioned(picture, "Test accuracy by tap and noise level"))
    baselines = {label: cell["test"] for label, cell in _baselines(probe).items()}
    cells = [
        {**cell, "tap": short(cell.get("tap", ""))} for cell in probe.get("cells") or []
    ]
    chosen_tap = short(_chosen(probe).get("tap", ""))
    figure = curves.accuracy_figure(cells, chosen_tap, baselines)
    if figure is not None:
        picture = report.figure_image(figure, "accuracy against noise level")
        parts.append(report.captioned(picture, "Test accuracy against the noise level"))
    if not parts:
        return None
    title = _TITLES.get((probe.get("protocol") or {}).get("classifier"), "Linear probe")
    return report.section(title, report.side_by_side(parts))


def comparison(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """The probe beside its baselines, and how it was measured."""
    probe = read(workdir, "probe.json")
    if not probe:
        return None
    parts = []
    chosen = _chosen(probe)
    if "test" in chosen:
        rows = [("this run", _setting(chosen), _with_error(chosen), "")]
        for label, cell in _baselines(probe).items():
            gain = f"{100 * (chosen['test'] - cell['test']):+.1f}"
            rows.append((label, _setting(cell), _with_error(cell), gain))
        best = probe.get("best_on_test") or {}
        if best:
            label = "this run, chosen on test: biased upwards"
            rows.append((label, _setting(best), _with_error(best), ""))
        headers = (
            "features",
            "tap and noise level",
            "test accuracy",
            "gain of the run",
        )
        parts.append(report.table(headers, rows, chosen=0))
    protocol = {
        name: value for name, value in probe.items() if isinstance(value, int | str)
    } | (probe.get("protocol") or {})
    if protocol:
        parts.append(report.folded("How it was measured", report.definitions(protocol)))
    return report.section("Comparison", "".join(parts)) if parts else None


def other_probes(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """What further probes of the workdir reached: probe_NAME.json, one a line."""
    rows = []
    for path in sorted(workdir.glob("probe_*.json")):
        probe = read(workdir, path.name) or {}
        chosen, protocol = _chosen(probe), probe.get("protocol") or {}
        if "test" not in chosen:
            continue
        rows.append(
            (
                path.stem,
                probe.get("step", ""),
                protocol.get("classifier", ""),
                f"{100 * protocol.get('label_fraction', 1):g} %",
                _setting(chosen),
                _with_error(chosen),
            )
        )
    if not rows:
        return None
    headers = (
        "name",
        "step",
        "classifier",
        "labels",
        "tap and noise level",
        "test accuracy",
    )
    return report.section("Other probes", report.table(headers, rows))


def probe_cells(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """Every cell of the probe's grid."""
    probe = read(workdir, "probe.json") or {}
    cells = probe.get("cells")
    if not cells:
        return None
    rows = [
        (
            cell.get("tap", ""),
            "+".join(map(report.number, cell.get("times", [cell.get("time", "")]))),
            noise_levels(cell) if "noise_level" in cell else "",
            report.percent(cell.get("held_out")),
            report.percent(cell.get("test")),
        )
        for cell in cells
    ]
    chosen = _chosen(probe)
    same = [
        i
        for i, cell in enumerate(cells)
        if all(cell.get(key) == chosen.get(key) for key in ("tap", "time"))
    ]
    headers = ("tap", "time", "noise level", "held-out", "test")
    content = report.table(headers, rows, chosen=same[0] if same else None)
    return report.section(
        "Every tap and time", report.folded(f"{len(rows)} cells", content)
    )
