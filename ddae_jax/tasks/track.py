"""The probe, and the distance of samples, over the checkpoints of a workdir.

Xiang et al. 2023 observe that the probe's accuracy peaks before generation does.
"""

import hashlib
import json
import pathlib
import time as clock
from collections.abc import Mapping, Sequence

from absl import logging
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.experiment import common
from ddae_jax.features.cache import model_identity
from ddae_jax.report import figures as curves
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint
from ddae_jax.settings import schema
from ddae_jax.tasks import fid, probe
from ddae_jax.tasks.fid import samples as fid_samples

FOLDER = "track"


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Measures checkpoint after checkpoint; what is measured already is not repeated.

    The probe is that of config.probe without baselines: every checkpoint chooses its
    own tap and time on held-out images. The distance is that of config.fid; where its
    feature network or reference is not at hand, it is left out and the reason is told.

    Writes track.json, track.txt, track.png, and a file for each step in track/.

    Raises:
      UserError: no checkpoint, not the named ones, or what the probe raises.
    """
    started = clock.monotonic()
    workdir = pathlib.Path(workdir)
    settings = config.track
    steps = checkpoint.choose_steps(workdir, settings.steps, "config.track.steps")
    if not settings.measures:
        raise UserError("config.track.measures: empty; known: fid, probe")
    # A probe and samples take long: a distance that cannot be had is told first.
    measure, missing = _prepare_distance(config, workdir)
    points = []
    for step in steps:
        point = {"step": step}
        if "probe" in settings.measures:
            point["probe"] = _stored(
                workdir, step, "probe", _probe_settings(config), _probe, config
            )
        if measure is not None:
            point["fid"] = _stored(
                workdir, step, "fid", _fid_settings(config), _distance, config, measure
            )
        points.append(point)
    name = None if measure is None else measure.distance_name
    peaks = _peaks(points)
    protocol = {
        "steps": ", ".join(map(str, steps)),
        "weights": "EMA",
        "seed": config.seed,
        "seconds": round(clock.monotonic() - started, 1),
    }
    if "probe" in settings.measures:
        protocol["probe"] = (
            f"{config.probe.classifier}; each checkpoint's own choice on held-out "
            "images; the peak is that of the held-out accuracy"
        )
    if measure is not None:
        protocol["distance"] = (
            f"{name} of {config.fid.count:,} samples, features of "
            f"{measure.network.name}, against {measure.reference.name}"
        )
    outcome.write(
        workdir,
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


def _prepare_distance(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[fid.Measure | None, str]:
    """What measures the distance; or None, and why not."""
    if "fid" not in config.track.measures:
        return None, ""
    if config.fid.samples:
        raise UserError(
            "config.fid.samples: track draws the samples of each checkpoint; leave it "
            "empty"
        )
    try:
        return fid.prepare(config, workdir), ""
    except (UserError, FileNotFoundError) as error:
        if "probe" not in config.track.measures:
            raise
        logging.warning("track: no distance of samples: %s", error)
        return None, str(error)


def _stored(workdir, step, name, settings, function, config, *inputs):
    """The result in track/STEP_NAME.json where its settings are the same, else a new
    one, stored."""
    # A run that began anew has other weights at the same steps.
    trained = common.restore_ema(config, workdir, step)
    weights = model_identity(common.encoder(trained, ()), trained.variables)
    content = json.dumps([settings, weights], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    file = f"{FOLDER}/{step:08d}_{name}.json"
    try:
        known = common.read_json(workdir, file)
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    if known.get("settings") == key:
        logging.info("track: %s of step %d is known", name, step)
        return known["result"]
    at_step = schema.copy_with(config, {"checkpoint.step": step})
    logging.info("track: %s of step %d", name, step)
    result = function(at_step, workdir, *inputs)
    (workdir / FOLDER).mkdir(exist_ok=True)
    common.write_json(workdir, file, {"settings": key, "result": result})
    return result


def _settings(config: ConfigDict, sections: Sequence[str]) -> dict:
    """What a stored result must have been measured with."""
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "class_conditional": config.train.class_conditional,
    } | {name: config[name].to_dict() for name in (*sections, "data", "autoencoder")}


def _probe_settings(config: ConfigDict) -> dict:
    return _settings(config, ("probe",))


def _probe(config: ConfigDict, workdir: pathlib.Path) -> dict:
    # Features of every checkpoint would fill the disk, to be read once.
    alone = {"probe.baselines": False, "probe.cache": False}
    chosen = probe.measure(schema.copy_with(config, alone), workdir)["chosen"]
    keys = ("tap", "noise_level", "held_out", "test", "standard_error")
    return {key: chosen[key] for key in keys}


def _fid_settings(config: ConfigDict) -> dict:
    return _settings(config, ("fid", "sample", "sampler"))


def _distance(config: ConfigDict, workdir: pathlib.Path, measure: fid.Measure) -> float:
    trained = common.restore_ema(config, workdir)
    fid.check_checkpoint(config, measure, trained)
    samples = fid_samples.drawn(
        config, workdir, trained, measure.network, measure.extract
    )
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
