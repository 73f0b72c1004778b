"""The table of benchmarks/ablation.py, from what its runs left."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime import log
from ddae_jax.tasks import report

# Beside the converged probe on all labels: fields of the other two.
OTHER_PROBES = {
    "knn": ("--config.probe.classifier=knn",),
    # 1 % of Fashion-MNIST's 60,000 labels are 12 % of the 5,000 that are used.
    "few": ("--config.probe.label_fraction=0.12",),
}
NAME = "ablation"


def _read(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def _rank(folder):
    found = _read(folder, "diagnose.json")
    tap = _read(folder, "probe.json")["chosen"]["tap"]
    return next(r["effective_rank"] for r in found["ranks"] if r["tap"] == tap)


def _loss(low: float, high: float) -> Callable[[pathlib.Path], float]:
    def mean(folder):
        losses = _read(folder, "diagnose.json")["losses"]
        return float(
            np.mean([x["loss"] for x in losses if low <= x["noise_level"] < high])
        )

    return mean


def _rate(folder):
    # A row that only a first call of the compiled program made has no rate.
    rates = [row.get("images_per_second") for row in log.read_metrics(folder)]
    return float(np.median([rate for rate in rates if rate is not None]))


def _accuracy(name: str) -> Callable[[pathlib.Path], float]:
    return lambda folder: 100 * _read(folder, name)["chosen"]["test"]


def _contrast(folder):
    """How much the best tap stands out: its accuracy over the mean of all taps."""
    profile = list(profile_of(folder).values())
    return max(profile) - float(np.mean(profile))


@dataclasses.dataclass(frozen=True)
class Measure:
    """One column.

    Attributes:
      title: of the column.
      read: folder of a run -> number.
      better: 1 where more is better, -1 where less is, 0 where neither.
    """

    title: str
    read: Callable[[pathlib.Path], float]
    better: int = 0


MEASURES = (
    Measure("probe %", _accuracy("probe.json"), 1),
    Measure("kNN %", _accuracy("probe_knn.json"), 1),
    Measure("1 % labels %", _accuracy("probe_few.json"), 1),
    Measure("best tap over mean", _contrast),
    Measure("Frechet", lambda folder: _read(folder, "fid.json")["fid"], -1),
    Measure("loss, low noise", _loss(0, 0.5), -1),
    Measure("loss, high noise", _loss(0.5, np.inf), -1),
    Measure("rank", _rank),
    Measure("images/s", _rate),
)


def profile_of(folder: pathlib.Path) -> dict[str, float]:
    """Tap -> best test accuracy in % over the noise levels, in order of depth."""
    found: dict[str, float] = {}
    for cell in _read(folder, "probe.json")["cells"]:
        found[cell["tap"]] = max(found.get(cell["tap"], 0), 100 * cell["test"])
    return found


def collected(folder: pathlib.Path) -> dict[str, dict[str, list[float]]]:
    """Row -> column -> values of its seeds, of runs that are whole."""
    rows: dict[str, dict[str, list[float]]] = {}
    for run in _whole(folder):
        columns = rows.setdefault(_row(run), {m.title: [] for m in MEASURES})
        for measure in MEASURES:
            columns[measure.title].append(measure.read(run))
    return rows


def verdict(plain: Sequence[float], other: Sequence[float], better: int) -> str:
    """What seeds say of a difference: "no effect" where it is inside their spread.

    The spread is the larger standard deviation of both, over at least two seeds each,
    and counts twice.
    """
    if not better or len(plain) < 2:
        return ""
    spreads = [np.std(values, ddof=1) for values in (plain, other) if len(values) > 1]
    difference = better * (np.mean(other) - np.mean(plain))
    if abs(difference) <= 2 * max(spreads):
        return "no effect"
    return "better" if difference > 0 else "worse"


def _cell(values: Sequence[float]) -> str:
    digits = 1 if np.mean(values) >= 10 else 4
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def write(folder: pathlib.Path) -> None:
    """Writes ablation.json, .txt and .png, and report.html, of what is there."""
    rows = collected(folder)
    if not rows:
        return
    order = sorted(rows, key=lambda name: (_base(name) != "unet", name))
    verdicts = {
        name: {
            m.title: verdict(rows[base][m.title], rows[name][m.title], m.better)
            for m in MEASURES
        }
        for name in order
        if (base := _base(name)) in rows and base != name
    }
    outcome.write(
        folder,
        NAME,
        outcome.Outcome(
            title="Self-conditioning and its rivals",
            summary=f"{len(rows)} rows; see the verdicts",
            facts={"rows": rows, "verdicts": verdicts},
            protocol={
                "config": "configs/fashion_mnist_16.py",
                "steps": _read(folder / "unet-seed0", "config.json")["train"]["steps"],
                "spread": "standard deviation over seeds",
                "verdict": "no effect: inside twice the larger spread",
            },
            headers=("", "seeds", *(m.title for m in MEASURES)),
            rows=[
                (
                    name,
                    len(rows[name]["probe %"]),
                    *(_cell(rows[name][m.title]) for m in MEASURES),
                )
                for name in order
            ],
            pictures=[
                outcome.Picture(
                    f"Test accuracy by tap of the {base}, means over seeds",
                    _draw(folder, names),
                )
                for base in ("unet", "dit")
                if (names := [name for name in order if _base(name) == base])
            ],
            note=_note(verdicts),
        ),
    )
    page = report.build(folder, NAME, "configs/fashion_mnist_16.py", {})
    (folder / "report.html").write_text(page)


def _note(verdicts: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for name, found in verdicts.items():
        told = [f"{title} {word}" for title, word in found.items() if word]
        if told:
            lines.append(f"{name} against plain: {', '.join(told)}.")
    return " ".join(lines)


def _draw(folder: pathlib.Path, names: Sequence[str]) -> Figure:
    """A line for each row over the taps."""
    figure, (axis,) = curves.new_figure()
    for number, name in enumerate(names):
        profiles = [profile_of(run) for run in _whole(folder) if _row(run) == name]
        mean = [np.mean([p[tap] for p in profiles]) for tap in profiles[0]]
        style = "o-" if number < len(curves.COLOURS) else "s--"
        colour = curves.COLOURS[number % len(curves.COLOURS)]
        axis.plot(list(profiles[0]), mean, style, color=colour, label=name)
    axis.set_ylabel("test accuracy (%)")
    axis.tick_params(axis="x", labelrotation=90)
    curves.legend(axis)
    return figure


def _whole(folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders of the runs that are whole."""
    found = sorted(folder.glob("*-seed*"))
    return [run for run in found if (run / "report.html").exists()]


def _base(name: str) -> str:
    """The plain row that it is compared with."""
    return "unet" if name == "retrofit" else name.split("+")[0]


def _row(run: pathlib.Path) -> str:
    return re.sub(r"-seed\d+$", "", run.name)
