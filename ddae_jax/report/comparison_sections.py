"""The page's part about several workdirs: what each found, and their loss curves."""

import pathlib
from collections.abc import Mapping, Sequence

from ddae_jax.errors import UserError
from ddae_jax.report import figures, outcome, page, turned
from ddae_jax.report.wording import number, percent
from ddae_jax.runtime import log
from ddae_jax.runtime.files import read_json

_TAB = "Comparison"


def others(workdir: pathlib.Path, folders: Sequence[str]) -> dict[str, pathlib.Path]:
    """Label -> folder of each run to compare: `workdir`, then the others.

    A run is called by its folder; where two have the same name, by their paths.

    Raises:
      UserError: there is no such folder, or it holds no run.
    """
    paths = [workdir, *(pathlib.Path(folder).expanduser() for folder in folders)]
    for path in paths[1:]:
        if not path.is_dir():
            raise UserError(f"config.report.compare: {path}: there is no such folder")
        if read_json(path / "config.json") is None:
            raise UserError(
                f"config.report.compare: {path}: no workdir: it has no config.json"
            )
    resolved = list(dict.fromkeys(path.resolve() for path in paths))
    names = [path.name for path in resolved]
    return {
        path.name if names.count(path.name) == 1 else str(path): path
        for path in resolved
    }


def sections(runs: Mapping[str, pathlib.Path]) -> list[page.PageSection]:
    """Results side by side, and overlaid loss curves; none of fewer than two runs.

    Args:
      runs: label -> workdir, this run first.
    """
    if len(runs) < 2:
        return []
    found = {label: _results(workdir) for label, workdir in runs.items()}
    names = dict.fromkeys(name for results in found.values() for name in results)
    rows = [
        (name, *(results.get(name) for results in found.values())) for name in names
    ]
    blocks = [page.Table(("", *runs), rows)]
    logged = {label: log.read_metrics(workdir) for label, workdir in runs.items()}
    drawn = figures.overlaid_figure(logged, "loss")
    if drawn is not None:
        caption = "Loss over training; runs of other settings may have other losses"
        still = page.figure(drawn, "loss of each run over training", caption)
        blocks.append(page.Turned(turned.overlaid(logged, "loss"), still))
    return [page.PageSection("Runs side by side", blocks, _TAB)]


def _results(workdir: pathlib.Path) -> dict[str, str]:
    """What a run found, in one cell each."""
    results = {}
    data = read_json(workdir / "data.json") or {}
    if data.get("name"):
        results["data"] = str(data["name"])
    logged = log.read_metrics(workdir)
    if logged:
        results["optimiser steps"] = number(logged[-1].get("step"))
        results["last loss"] = number(logged[-1].get("loss"))
    chosen = (read_json(workdir / "probe.json") or {}).get("chosen") or {}
    if "test" in chosen:
        results["linear probe, test accuracy"] = percent(chosen["test"])
    for path in sorted(workdir.glob("*.json")):
        content = read_json(path) or {}
        if isinstance(content.get(outcome.LAYOUT), dict) and "summary" in content:
            results[path.stem] = str(content["summary"])
    return results
