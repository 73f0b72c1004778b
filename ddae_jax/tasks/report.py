"""Writes report.html: one self-contained page about everything in a workdir.

Each section is a function (workdir, config) -> HTML, or None where it has nothing to
say. A new task adds its section to SECTIONS.
"""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Callable

import jax
from absl import logging
from ml_collections import ConfigDict

from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.report import page as report
from ddae_jax.report import probe_sections as report_probe
from ddae_jax.runtime import log
from ddae_jax.runtime.files import replacing

FILE = "report.html"
# Grids of samples over training that the page shows, evenly chosen.
GRIDS_SHOWN = 4
_PACKAGES = ("ddae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# The tasks that write through tasks/outcome.py, in the order of the page: patterns of
# what they call their results.
EVALUATIONS = (
    "fid*",
    "finetune*",  # fine-tuned and from scratch, side by side
    "noisy_classifier*",
    "contrastive*",
    "track*",
    "dense*",
    "predict",
)

Section = Callable[[pathlib.Path, ConfigDict], str | None]


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


def configuration(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The commands that were run, and the resolved config."""
    commands = workdir / "commands.txt"
    parts = []
    if commands.is_file():
        parts.append(report.preformatted(commands.read_text().strip()))
    content = report_probe.read(workdir, "config.json") or config.to_dict()
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
    report_probe.headline,
    training,
    samples,
    report_probe.probe_figures,
    report_probe.comparison,
    report_probe.other_probes,
    report_probe.probe_cells,
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
    with replacing(path) as part:
        part.write_text(page)
    logging.info("report: %s", path.resolve())
