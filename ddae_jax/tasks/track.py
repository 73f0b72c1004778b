"""The probe, and the distance of samples, over the checkpoints of a workdir.

Xiang et al. 2023 observe that the probe's accuracy peaks before generation does.
"""

import time as clock
from collections.abc import Mapping, Sequence

from absl import logging
from matplotlib.figure import Figure

from ddae_jax.data.identity import of_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint, files, processes
from ddae_jax.runtime.identity import of
from ddae_jax.settings import plain
from ddae_jax.tasks import fid, probe
from ddae_jax.tasks.fid import samples as fid_samples
from ddae_jax.tasks.fid.samples import features_identity

FOLDER = "track"
_NOT_OF_THE_RESULT = ("output", "baselines", "cache", "cache_folder")


def run(experiment: Experiment) -> None:
    """Measures checkpoint after checkpoint; what is measured already is not repeated.

    The probe is that of config.probe without baselines: every checkpoint chooses its
    own tap and time on held-out images. The distance is that of config.fid; where its
    feature network or reference is not at hand, it is left out and the reason is told.

    Writes track.json, track.txt, track.png, and a file for each step in track/.

    Raises:
      UserError: no checkpoint, not the named ones, or what the probe raises.
    """
    started = clock.monotonic()
    settings = experiment.settings.track
    steps = checkpoint.choose_steps(
        experiment.workdir, settings.steps, "config.track.steps"
    )
    # A probe and samples take long: a distance that cannot be had is told first.
    measure, missing = _prepare_distance(experiment)
    probed = probed_with(experiment) if "probe" in settings.measures else None
    points = []
    for step in steps:
        of_probe, of_distance = _identities(experiment, step, probed, measure)
        point = {"step": step}
        if probed is not None:
            point["probe"] = _stored(experiment, step, "probe", of_probe, _probe)
        if measure is not None:
            point["fid"] = _stored(
                experiment, step, "fid", of_distance, _distance, measure
            )
        points.append(point)
    name = None if measure is None else measure.distance_name
    peaks = _peaks(points)
    protocol = {
        "steps": ", ".join(map(str, steps)),
        "weights": "EMA",
        "seed": experiment.settings.seed,
        "seconds": round(clock.monotonic() - started, 1),
    }
    if "probe" in settings.measures:
        protocol["probe"] = (
            f"{experiment.settings.probe.classifier}; each checkpoint's own choice on "
            "held-out images; the peak is that of the held-out accuracy"
        )
    if measure is not None:
        protocol["distance"] = (
            f"{name} of {experiment.settings.fid.count:,} samples, features of "
            f"{measure.network.name}, against {measure.reference.name}"
        )
    outcome.write(
        experiment.workdir,
        settings.output,
        outcome.Outcome(
            title="Recognition and generation over training",
            summary=_summary(peaks, name),
            facts={
                "step": steps[-1],
                "points": points,
                "peaks": peaks,
                "distance": name,
                "distance_missing": missing,
            },
            protocol=protocol,
            headers=_headers(settings.measures, name),
            rows=[_row(point) for point in points],
            pictures=[
                outcome.Picture("Over training; ringed: the peaks", _draw(points, name))
            ],
            note=_note(points, peaks, missing),
        ),
    )


def _prepare_distance(experiment: Experiment) -> tuple[fid.Measure | None, str]:
    """What measures the distance; or None, and why not."""
    if "fid" not in experiment.settings.track.measures:
        return None, ""
    if experiment.settings.fid.samples:
        raise UserError(
            "config.fid.samples: track draws the samples of each checkpoint; leave it "
            "empty"
        )
    try:
        return fid.prepare(experiment), ""
    except (UserError, FileNotFoundError) as error:
        if "probe" not in experiment.settings.track.measures:
            raise
        logging.warning("track: no distance of samples: %s", error)
        return None, str(error)


def probed_with(experiment: Experiment) -> str:
    """Identity of what all checkpoints are probed with and on."""
    settings = experiment.settings
    probe = plain.of_section(settings.probe)
    return of(
        probe={k: v for k, v in probe.items() if k not in _NOT_OF_THE_RESULT},
        train=of_source(experiment.source("train")),
        test=of_source(experiment.source("test")),
        seed=settings.seed,
        dtype=settings.dtype,
    )


def _identities(experiment, step, probed, measure) -> tuple[str, str]:
    """Of the probe and of the distance of one checkpoint."""
    # By its weights: a run that began anew has others at the same steps.
    trained = experiment.trained(step)
    of_probe = of(probe=probed, weights=trained.identity())
    if measure is None:
        return of_probe, ""
    samples = features_identity(experiment, trained, measure.network)
    return of_probe, of(samples=samples, reference=measure.reference.identity)


def _stored(experiment, step, name, identity, function, *inputs):
    """The result in track/STEP_NAME.json where it has this identity, else a new one,
    stored."""
    file = f"{FOLDER}/{step:08d}_{name}.json"
    path = experiment.workdir / file
    known = processes.on_first(lambda: files.read_json(path)) or {}
    if known.get("identity") == identity:
        logging.info("track: %s of step %d is known", name, step)
        return known["result"]
    logging.info("track: %s of step %d", name, step)
    result = function(experiment.changed("checkpoint", step=step), *inputs)
    processes.on_first(lambda: path.parent.mkdir(exist_ok=True))
    experiment.write_json(file, {"identity": identity, "result": result})
    return result


def _probe(experiment: Experiment) -> dict:
    # Features of every checkpoint would fill the disk, to be read once.
    alone = experiment.changed("probe", baselines=False, cache=False)
    chosen = probe.measure(alone)["chosen"]
    keys = ("tap", "noise_level", "held_out", "test", "standard_error")
    return {key: chosen[key] for key in keys}


def _distance(experiment: Experiment, measure: fid.Measure) -> float:
    trained = experiment.trained()
    fid.check_checkpoint(experiment, measure, trained)
    samples = fid_samples.drawn(experiment, trained, measure.network, measure.extract)
    return fid.distance(measure, samples)


def _peaks(points: Sequence[Mapping]) -> dict[str, int]:
    """Steps at which recognition (held-out accuracy) and generation are best."""
    peaks = {}
    if "probe" in points[0]:
        best = max(points, key=lambda point: point["probe"]["held_out"])
        peaks["probe"] = best["step"]
    if "fid" in points[0]:
        peaks["fid"] = min(points, key=lambda point: point["fid"])["step"]
    return peaks


def _summary(peaks: Mapping[str, int], name: str | None) -> str:
    parts = []
    if "probe" in peaks:
        parts.append(f"the probe is best at step {peaks['probe']}")
    if "fid" in peaks:
        parts.append(f"{name} is lowest at step {peaks['fid']}")
    return ", ".join(parts)


def _note(points: Sequence[Mapping], peaks: Mapping[str, int], missing: str) -> str:
    last = points[-1]["step"]
    notes = [f"No distance of samples: {missing}"] if missing else []
    if len(points) < 2:
        return " ".join([*notes, "One checkpoint shows no peak."])
    labels = {"probe": "Recognition", "fid": "Generation"}
    notes += [
        f"{labels[name]} is still best at the last checkpoint: its peak may come later."
        for name, step in peaks.items()
        if step == last
    ]
    if len(peaks) == 2 and peaks["probe"] < peaks["fid"]:
        notes.append("The probe peaks first, as Xiang et al. 2023 observe.")
    elif len(peaks) == 2:
        notes.append(
            "Xiang et al. 2023 observe that the probe peaks first: not so here."
        )
    return " ".join(notes)


def _headers(measures: Sequence[str], name: str | None) -> tuple[str, ...]:
    """Of the columns that `_row` gives; `name` is the distance's, None without one."""
    of_probe = ("test accuracy", "held-out", "tap", "noise level")
    return (
        "step",
        *(of_probe if "probe" in measures else ()),
        *((name,) if name else ()),
    )


def _row(point: Mapping) -> tuple:
    cells = [point["step"]]
    if "probe" in point:
        keys = ("test", "held_out", "tap", "noise_level")
        cells += [point["probe"][key] for key in keys]
    if "fid" in point:
        cells.append(point["fid"])
    return tuple(cells)


def _draw(points: Sequence[Mapping], name: str | None) -> Figure:
    steps = [point["step"] for point in points]
    panels = []
    if "probe" in points[0]:
        cells = [point["probe"] for point in points]
        panels.append(
            (
                "accuracy (%)",
                {
                    "held-out": [100 * cell["held_out"] for cell in cells],
                    "test": [100 * cell["test"] for cell in cells],
                },
                max,
            )
        )
    if "fid" in points[0]:
        panels.append((name, {name: [point["fid"] for point in points]}, min))
    figure, axes = curves.new_figure(panels=len(panels))
    for axis, (title, lines, best) in zip(axes, panels, strict=True):
        for colour, (label, values) in zip(curves.COLOURS, lines.items(), strict=False):
            axis.plot(steps, values, "o-", color=colour, label=label)
        first = next(iter(lines.values()))
        at = first.index(best(first))
        axis.plot(
            steps[at], first[at], "o", markersize=13, fillstyle="none", color="red"
        )
        axis.set_ylabel(title)
        if len(lines) > 1:
            curves.legend(axis)
    axes[-1].set_xlabel("optimiser step")
    return figure
