"""Writes report.html: one self-contained page about everything in a workdir.

Each section is a function (workdir, config) -> HTML, or None where it has nothing to
say. A new task adds its section to SECTIONS.
"""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping

import jax
from absl import logging
from ml_collections import ConfigDict

from ddae_jax import curves, log, report
from ddae_jax.tasks import outcome

FILE = "report.html"
# Grids of samples over training that the page shows, evenly chosen.
GRIDS_SHOWN = 4
_PACKAGES = ("ddae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# The tasks that write through tasks/outcome.py, in the order of the page: patterns of
# what they call their results.
EVALUATIONS = (
    "fid",
    "finetune*",  # fine-tuned and from scratch, side by side
    "noisy_classifier",
    "contrastive",
    "track",
    "dense",
    "predict",
)

Section = Callable[[pathlib.Path, ConfigDict], str | None]


def _read(workdir: pathlib.Path, name: str) -> dict | None:
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
    parts = [str(cell["tap"])] if "tap" in cell else []
    if "noise_level" in cell:
        parts.append(f"noise level {report.number(float(cell['noise_level']))}")
    return ", ".join(parts)


def headline(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The probe's accuracy beside its two baselines."""
    probe = _read(workdir, "probe.json")
    chosen = _chosen(probe or {})
    if "test" not in chosen:
        return report.missing("linear probe", "probe")
    numbers = [(_with_error(chosen), f"test accuracy, probe at {_setting(chosen)}")]
    numbers += [(_with_error(cell), label) for label, cell in _baselines(probe).items()]
    return report.headline(numbers)


def training(workdir: pathlib.Path, config: ConfigDict) -> str:
    """Curves of what pretrain logged."""
    rows = log.read_metrics(workdir)
    loss = curves.loss_figure(rows)
    if loss is None:
        return report.section("Training", report.missing("training log", "pretrain"))
    last = rows[-1]
    facts = {"steps": last["step"], "last loss": last.get("loss")}
    for name, label in (
        ("images_per_second", "images/s"),
        ("seconds_per_step", "seconds a step"),
        ("flops_per_step", "FLOPs a step"),
        ("peak_share", "share of the chip's peak"),
    ):
        if last.get(name) is not None:
            facts[label] = last[name]
    parts = [report.figure_image(loss, "loss over training")]
    norms, speed = curves.norm_figure(rows), curves.speed_figure(rows)
    if norms is not None:
        parts.append(report.figure_image(norms, "norms over training"))
    if speed is not None:
        parts.append(report.figure_image(speed, "images per second over training"))
    parts.append(report.definitions(facts))
    return report.section("Training", report.side_by_side(parts))


def samples(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The sample grid, and grids drawn during training."""
    parts = []
    final = workdir / "samples.png"
    if final.is_file():
        parts.append(_picture(final, "Samples of the EMA weights"))
    grids = sorted((workdir / "images").glob("step_*.png"))
    if len(grids) > GRIDS_SHOWN:
        last = len(grids) - 1
        grids = [grids[i * last // (GRIDS_SHOWN - 1)] for i in range(GRIDS_SHOWN)]
    if grids:
        steps = [int(path.stem.removeprefix("step_")) for path in grids]
        parts.append(
            report.side_by_side(
                _picture(path, f"Step {step}")
                for path, step in zip(grids, steps, strict=True)
            )
        )
    content = "".join(parts) or report.missing("samples", "sample")
    return report.section("Samples", content)


def _picture(path: pathlib.Path, caption: str) -> str:
    return report.captioned(
        report.image(path.read_bytes(), caption, pixels=True), caption
    )


def probe_figures(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """Heat map of tap x noise level, and accuracy against noise level."""
    probe = _read(workdir, "probe.json")
    if not probe:
        return report.section("Linear probe", report.missing("linear probe", "probe"))
    parts = []
    heat_map = workdir / "probe.png"
    if heat_map.is_file():
        picture = report.image(heat_map.read_bytes(), "accuracy by tap and noise level")
        parts.append(report.captioned(picture, "Test accuracy by tap and noise level"))
    baselines = {label: cell["test"] for label, cell in _baselines(probe).items()}
    chosen_tap = _chosen(probe).get("tap")
    figure = curves.accuracy_figure(probe.get("cells") or [], chosen_tap, baselines)
    if figure is not None:
        picture = report.figure_image(figure, "accuracy against noise level")
        parts.append(report.captioned(picture, "Test accuracy against the noise level"))
    return report.section("Linear probe", report.side_by_side(parts)) if parts else None


def comparison(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """The probe beside its baselines, and how it was measured."""
    probe = _read(workdir, "probe.json")
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


def probe_cells(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """Every cell of the probe's grid."""
    probe = _read(workdir, "probe.json") or {}
    cells = probe.get("cells")
    if not cells:
        return None
    rows = [
        (
            cell.get("tap", ""),
            cell.get("time", ""),
            cell.get("noise_level", ""),
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


def configuration(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The commands that were run, and the resolved config."""
    commands = workdir / "commands.txt"
    parts = []
    if commands.is_file():
        parts.append(report.preformatted(commands.read_text().strip()))
    content = _read(workdir, "config.json") or config.to_dict()
    parts.append(
        report.folded("config.json", report.preformatted(json.dumps(content, indent=2)))
    )
    return report.section("Command and config", "".join(parts))


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def versions(workdir: pathlib.Path, config: ConfigDict) -> str:
    """Software and hardware that wrote this page."""
    facts = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    if commit:
        facts["git commit"] = commit
    facts["platform"] = platform.platform()
    kinds = [device.device_kind for device in jax.devices()]
    facts["devices"] = ", ".join(
        f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)
    )
    return report.section("Versions", report.definitions(facts))


def evaluations(workdir: pathlib.Path, config: ConfigDict) -> str | None:
    """What each evaluation task left."""
    names = [
        path.stem
        for pattern in EVALUATIONS
        for path in sorted(workdir.glob(f"{pattern}.json"))
    ]
    found = [outcome.section(workdir, name) for name in names]
    return "\n".join(part for part in found if part) or None


SECTIONS: tuple[Section, ...] = (
    headline,
    training,
    samples,
    probe_figures,
    comparison,
    probe_cells,
    evaluations,
    configuration,
    versions,
)
"""In the order of the page."""


def run(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Writes `workdir`/report.html from what the other tasks left; process 0 alone."""
    if jax.process_index() != 0:
        return
    workdir = pathlib.Path(workdir)
    title = " ".join(part for part in (config.name, config.variant) if part)
    subtitle = (
        f"{config.network.name} under {config.process.name}, on {config.data.name}"
    )
    parts = [section(workdir, config) for section in SECTIONS]
    page = report.page(title, subtitle, [part for part in parts if part])
    path = workdir / FILE
    part = path.with_suffix(".part")
    part.write_text(page)
    part.replace(path)
    logging.info("report: %s", path.resolve())
