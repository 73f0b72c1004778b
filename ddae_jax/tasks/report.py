"""Writes report.html: one self-contained page about everything in a workdir."""

import pathlib
from collections.abc import Callable, Mapping

import jax
from absl import logging

from ddae_jax.experiment import Experiment
from ddae_jax.report import (
    outcome,
    outcome_sections,
    page,
    probe_sections,
    provenance_sections,
    run_sections,
)
from ddae_jax.runtime.files import replacing
from ddae_jax.tasks import TASKS

FILE = "report.html"

Section = Callable[[pathlib.Path], page.PageSection | None]

SECTIONS: tuple[Section, ...] = (
    probe_sections.headline,
    run_sections.training,
    run_sections.samples,
    probe_sections.probe_figures,
    probe_sections.comparison,
    probe_sections.other_probes,
    probe_sections.probe_cells,
)
"""What stands before the outcomes of evaluation tasks, in the order of the page. A task
that writes through report/outcome.py needs no entry."""


def run(experiment: Experiment) -> None:
    """Writes report.html into the workdir, from what is there; process 0 alone."""
    if jax.process_index() != 0:
        return
    workdir, settings = experiment.workdir, experiment.settings
    config = outcome.read_json(workdir / "config.json") or {}
    kinds = [
        str((config.get(section) or {}).get("name", type(built).__name__))
        for section, built in (
            ("network", settings.network),
            ("process", settings.process),
        )
    ]
    data = describe_data(outcome.read_json(workdir / "data.json") or {})
    subtitle = " under ".join(kinds) + (f", on {data}" if data else "")
    path = workdir / FILE
    with replacing(path) as part:
        part.write_text(build(workdir, settings.title, subtitle, config))
    logging.info("report: %s", path.resolve())


def build(
    workdir: pathlib.Path, title: str, subtitle: str, config: Mapping = {}
) -> str:
    """The page about a workdir, as HTML.

    Args:
      title, subtitle: plain text.
      config: shown where the workdir has no config.json.
    """
    found = [section(workdir) for section in SECTIONS]
    sections = [section for section in found if section is not None]
    sections += outcome_sections.sections(workdir, tuple(TASKS))
    sections.append(provenance_sections.commands(workdir, config))
    sections.append(provenance_sections.versions())
    return page.render(title, subtitle, sections)


def describe_data(data: Mapping) -> str:
    """What data.json says the run was trained on; empty where it says nothing."""
    if "name" not in data:
        return ""
    parts = [str(data["name"])]
    if data.get("train_images"):
        parts.append(f"{data['train_images']:,} training images")
    if data.get("image_shape"):
        height, width, _ = data["image_shape"]
        parts.append(f"{width} x {height} pixels")
    return ": ".join([parts[0], ", ".join(parts[1:])]) if parts[1:] else parts[0]
