"""The page's part about probes: probe.json, and further ones in probe_NAME.json."""

import pathlib
from collections.abc import Mapping

from ddae_jax.report import figures, page, turned
from ddae_jax.report.wording import noise_levels, number, percent, short
from ddae_jax.runtime.files import read_json

_TAB = "Features"
_TITLES = {
    "ridge": "Ridge probe",
    "knn": "Nearest neighbours",
    "attentive": "Attentive probe",
}


def _chosen(result: Mapping) -> Mapping:
    """The cell that was chosen on held-out images, of a probe or of a baseline."""
    return result.get("chosen") or {}


def _with_error(cell: Mapping) -> str:
    """Test accuracy, with its standard error over seeds where there are several."""
    text = percent(cell.get("test"))
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


def headline(workdir: pathlib.Path) -> page.PageSection:
    """The probe's accuracy beside its baselines."""
    probe = read_json(workdir / "probe.json") or {}
    chosen = _chosen(probe)
    if "test" not in chosen:
        return page.PageSection("", [page.Missing("linear probe", "probe")])
    numbers = [(_with_error(chosen), f"test accuracy, probe at {_setting(chosen)}")]
    numbers += [(_with_error(cell), label) for label, cell in _baselines(probe).items()]
    return page.PageSection("", [page.Headline(numbers)])


def probe_figures(workdir: pathlib.Path) -> page.PageSection | None:
    """Heat map of tap x noise level, and accuracy against noise level."""
    probe = read_json(workdir / "probe.json")
    if not probe:
        missing = page.Missing("linear probe", "probe")
        return page.PageSection("Linear probe", [missing], _TAB)
    blocks: list[page.PageBlock] = []
    baselines = {label: cell["test"] for label, cell in _baselines(probe).items()}
    cells = [
        {**cell, "tap": short(cell.get("tap", ""))} for cell in probe.get("cells") or []
    ]
    # Those of several noise levels at once have no place on one axis of them.
    placed = [
        cell
        for cell in cells
        if {"test", "noise_level"} <= cell.keys()
        and len(cell.get("noise_levels", [cell["noise_level"]])) == 1
    ]
    picture = workdir / "probe.png"
    if picture.is_file():
        caption = "Test accuracy by tap and noise level"
        still = page.png_file(picture, caption)
        drawn = turned.heat_map(placed)
        turns = drawn is not None and isinstance(still, page.EmbeddedImage)
        blocks.append(page.Turned(drawn, still) if turns else still)
    chosen_tap = short(_chosen(probe).get("tap", ""))
    curve = figures.accuracy_figure(cells, chosen_tap, baselines)
    taps = turned.profile(placed, baselines)
    if curve is not None:
        caption = "Test accuracy against the noise level"
        blocks.append(page.figure(curve, caption, caption))
    if taps is not None:
        caption = "Test accuracy along the network"
        still = page.figure(figures.profile(placed, baselines), caption, caption)
        blocks.append(page.Turned(taps, still))
    if not blocks:
        return None
    title = _TITLES.get((probe.get("protocol") or {}).get("classifier"), "Linear probe")
    return page.PageSection(title, [page.Row(blocks)], _TAB)


def comparison(workdir: pathlib.Path) -> page.PageSection | None:
    """The probe beside its baselines, and how it was measured."""
    probe = read_json(workdir / "probe.json")
    if not probe:
        return None
    blocks = []
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
        blocks.append(page.Table(headers, rows, chosen=0))
    protocol = {
        name: value for name, value in probe.items() if isinstance(value, int | str)
    } | (probe.get("protocol") or {})
    if protocol:
        blocks.append(page.Folded("How it was measured", [page.Facts(protocol)]))
    return (
        page.PageSection("Comparison with baselines", blocks, _TAB) if blocks else None
    )


def other_probes(workdir: pathlib.Path) -> page.PageSection | None:
    """What further probes of the workdir reached: probe_NAME.json, one a line."""
    rows = []
    for path in sorted(workdir.glob("probe_*.json")):
        probe = read_json(path) or {}
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
    return page.PageSection("Other probes", [page.Table(headers, rows)], _TAB)


def probe_cells(workdir: pathlib.Path) -> page.PageSection | None:
    """Every cell of the probe's grid."""
    probe = read_json(workdir / "probe.json") or {}
    cells = probe.get("cells")
    if not cells:
        return None
    rows = [
        (
            cell.get("tap", ""),
            "+".join(map(number, cell.get("times", [cell.get("time", "")]))),
            noise_levels(cell) if "noise_level" in cell else "",
            percent(cell.get("held_out")),
            percent(cell.get("test")),
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
    content = page.Table(headers, rows, chosen=same[0] if same else None)
    folded = page.Folded(f"{len(rows)} cells", [content])
    return page.PageSection("Every tap and time", [folded], _TAB)
