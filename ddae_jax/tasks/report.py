"""Writes report.html: one self-contained page about everything in a workdir."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from ddae_jax.experiment import Experiment
from ddae_jax.report import (
    comparison_sections,
    outcome_sections,
    page,
    probe_sections,
    provenance_sections,
    run_sections,
)
from ddae_jax.runtime import processes
from ddae_jax.runtime.files import read_json, replacing
from ddae_jax.settings import plain
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
    """Writes `workdir`/report.html from what the other tasks left; process 0 does."""
    processes.on_first(lambda: _write(experiment))


def _write(experiment: Experiment) -> None:
    path = experiment.workdir / FILE
    with replacing(path) as part:
        part.write_text(page_of(experiment))
    logging.info("report: %s", path.resolve())


def page_of(experiment: Experiment, explorer: Sequence[page.PageSection] = ()) -> str:
    """The page about the workdir of an experiment, as HTML; see `build`."""
    settings = experiment.settings
    subtitle = "{network} under {process}".format(**settings.names)
    data = describe_data(read_json(experiment.workdir / "data.json") or {})
    if data:
        subtitle += f", on {data}"
    return build(
        experiment.workdir,
        settings.title,
        subtitle,
        plain.of_settings(settings),
        [path for path in settings.report.compare.split(",") if path],
        explorer,
    )


def build(
    workdir: pathlib.Path,
    title: str,
    subtitle: str,
    config: Mapping,
    compare: Sequence[str] = (),
    explorer: Sequence[page.PageSection] = (),
) -> str:
    """The page about a workdir, as HTML.

    Args:
      title, subtitle: plain text.
      config: shown where the workdir has no config.json.
      compare: workdirs of other runs.
      explorer: of a page that is served: what its script asks the server for.

    Raises:
      UserError: one to compare is no workdir.
    """
    runs = comparison_sections.others(workdir, compare)
    found = [section(workdir) for section in SECTIONS]
    sections = [section for section in found if section is not None]
    sections += outcome_sections.sections(workdir, tuple(TASKS))
    sections += comparison_sections.sections(runs)
    sections.append(provenance_sections.commands(workdir, config))
    sections.append(provenance_sections.versions())
    sections += explorer
    return page.render(title, subtitle, sections, served=bool(explorer))


def describe_data(data: Mapping) -> str:
    """What data.json says the run was trained on; empty where it names nothing.

    The config is not asked: its `data.name` may be of a later task's flags.
    """
    if not data.get("name"):
        return ""
    parts = []
    if data.get("train_images"):
        parts.append(f"{data['train_images']:,} training images")
    if data.get("image_shape"):
        height, width = data["image_shape"][:2]
        parts.append(f"{width} x {height} pixels")
    name = str(data["name"])
    return f"{name} ({', '.join(parts)})" if parts else name
