"""Classifiers on features of a trained denoiser, over taps and noise levels."""

import dataclasses
import pathlib
import time as clock

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Bool
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import common
from ddae_jax.features.cache import FeatureCache, model_identity
from ddae_jax.features.encode import Encode, Pixels
from ddae_jax.features.shifted import Shifted
from ddae_jax.heads import attentive, linear
from ddae_jax.report import pictures
from ddae_jax.report.wording import short
from ddae_jax.runtime import parallel
from ddae_jax.runtime.random import stream
from ddae_jax.settings import schema
from ddae_jax.tasks.probe import fixed as probe_fixed
from ddae_jax.tasks.probe.adam import AdamProbe
from ddae_jax.tasks.probe.data import check_sources, labelled_by_seed
from ddae_jax.tasks.probe.grid import (
    Score,
    Time,
    accuracy_table,
    columns,
    resolve_times,
    summarise,
)
from ddae_jax.tasks.probe.table import table

_PIXELS = Time(given=0.0, time=0.0, noise_level=0.0)  # the clean image


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Probes the checkpoint, and the baselines in the same way.

    The cell (tap, time) is chosen by heads that were trained without the held-out part
    of the training set, on that part; the test set plays no role in it. Heads trained
    on the whole training set are what is tested.

    Writes OUTPUT.json (all figures), OUTPUT.txt (a table) and OUTPUT.png (test accuracy
    by tap and noise level) into `workdir`; OUTPUT is config.probe.output.

    Raises:
      UserError: no checkpoint; a time or noise level that the process does not have;
        images of another shape than the checkpoint's; too few images or classes.
    """
    workdir = pathlib.Path(workdir)
    probe = config.probe
    report = measure(config, workdir)
    common.write_json(workdir, f"{probe.output}.json", report)
    if jax.process_index() == 0:
        (workdir / f"{probe.output}.txt").write_text(table(report))
        process = schema.process(config)
        times = resolve_times(probe, process, process.probe_times)
        drawn = _heat_map(report, columns(times, probe.concat))
        pictures.write_png(workdir / f"{probe.output}.png", drawn)
    logging.info("%s", summary(report))


def measure(config: ConfigDict, workdir: pathlib.Path) -> dict:
    """Probes the checkpoint; returns what `run` writes as OUTPUT.json."""
    started = clock.monotonic()
    probe = config.probe
    trained = common.restore_ema(config, workdir)
    mesh = trained.mesh
    parallel.check_batch_size("config.probe.batch_size", probe.batch_size, mesh)
    process = trained.denoiser.process
    times = resolve_times(probe, process, process.probe_times)
    train = data_source.first(common.load_source(config, "train"), probe.train_count)
    test = data_source.first(common.load_source(config, "test"), probe.test_count)
    common.check_images(trained, train)
    check_sources(train, test, train.image_shape)
    by_seed = labelled_by_seed(config, train)
    paths = trained.denoiser.network.tap_paths()
    taps = tuple(tap for tap in paths if not probe.taps or tap in probe.taps)

    def score_all(name: str, network: Network, times: tuple[Time, ...]):
        logging.info("%s: %s", probe.output, name)
        scores = [
            score(config, network, mesh, times, labelled, held_out, test, seed)
            for seed, (labelled, held_out) in by_seed.items()
        ]
        return summarise(scores, columns(times, probe.concat), len(test))

    result = score_all(
        "trained network", network(config, workdir, trained, taps), times
    )
    baselines = {}
    if probe.baselines:
        blank = common.untrained(config, workdir)
        baselines["untrained"] = score_all(
            "untrained network", network(config, workdir, blank, taps), times
        )
        baselines["pixels"] = score_all("raw pixels", _pixels(config), (_PIXELS,))
    labelled, held_out = by_seed[config.seed]
    return {
        "step": trained.step,
        "data": train.name,
        "class_count": len(train.class_names),
        "protocol": protocol(config, len(labelled), int(held_out.sum()), len(test)),
        "seeds": list(by_seed),
        "seconds": round(clock.monotonic() - started, 1),
        **result,
        "baselines": baselines,
    }


@dataclasses.dataclass(frozen=True)
class Network:
    """What gives features.

    Attributes:
      encode: the features.
      params: for it, on the mesh.
      cache: of its features; None where they are not kept.
    """

    encode: Encode
    params: dict
    cache: FeatureCache | None = None


def network(
    config: ConfigDict,
    workdir: pathlib.Path,
    trained: common.Trained,
    taps: tuple[str, ...],
) -> Network:
    """The features of a denoiser that config.probe.classifier takes."""
    probe = config.probe
    pooled = probe.classifier != "attentive"
    encode = common.encoder(trained, taps, pooled)
    if probe.shifts > 1:
        encode = Shifted(encode, probe.shifts)
    cache = None
    if probe.cache and probe.classifier in probe_fixed.CLASSIFIERS:
        folder = pathlib.Path(probe.cache_folder or workdir / "features")
        identity = model_identity(encode, trained.variables)
        cache = FeatureCache(folder, identity, f"step{trained.step:08d}")
    return Network(encode, trained.variables, cache)


def _pixels(config: ConfigDict) -> Network:
    return Network(Pixels(pooled=config.probe.classifier != "attentive"), {})


def score(
    config: ConfigDict,
    network: Network,
    mesh: Mesh,
    times: tuple[Time, ...],
    train: Source,
    held_out: Bool[np.ndarray, "count"],
    test: Source,
    seed: int,
) -> Score:
    """Trains all heads of one seed; scores them on held-out and on test images."""
    probe = config.probe
    points = tuple(time.time for time in times)
    if probe.classifier in probe_fixed.CLASSIFIERS:
        extract = probe_fixed.Extractor(
            network.encode,
            network.params,
            mesh,
            points,
            probe.batch_size,
            probe.draws,
            network.cache,
        )
        return probe_fixed.score(probe, extract, train, held_out, test, seed)
    encode = network.encode
    head: linear.Kind = linear.LINEAR
    if probe.classifier == "attentive":
        _check_widths(probe.attentive_heads, encode, network.params, train.image_shape)
        head = attentive.AttentiveHead(probe.attentive_heads, probe.attentive_queries)
    trainer = AdamProbe(
        encode,
        points,
        len(train.class_names),
        probe.epochs,
        probe.batch_size,
        probe.learning_rate,
        probe.flip,
        probe.crop,
        config.data.threads,
        probe.concat,
        head,
    )
    fit_key = stream(seed, "probe/fit")
    both = trainer.fit(network.params, mesh, train, held_out, fit_key, seed)
    keys = (stream(seed, "probe/held_out_noise"), stream(seed, "probe/test_noise"))
    sources = (data_source.subset(train, np.flatnonzero(held_out)), test)
    return Score(
        *(
            trainer.accuracies(heads, network.params, mesh, source, part_key)
            for heads, source, part_key in zip(both, sources, keys, strict=True)
        )
    )


def _check_widths(
    heads: int, encode: Encode, params: dict, image_shape: tuple[int, int, int]
) -> None:
    noise = encode.noise_shape(image_shape)
    blanks = [jax.ShapeDtypeStruct((1, *s), jnp.float32) for s in (image_shape, noise)]
    time = jax.ShapeDtypeStruct((), jnp.float32)
    for tap, shape in jax.eval_shape(encode, params, *blanks, time).items():
        if shape.shape[-1] % heads:
            raise UserError(
                f"config.probe.attentive_heads: {heads} do not divide the "
                f"{shape.shape[-1]} channels of {tap}"
            )


def _heat_map(report: dict, shown: tuple[Time, ...]) -> Figure:
    chosen = report["chosen"]
    rows = tuple(dict.fromkeys(cell["tap"] for cell in report["cells"]))
    return pictures.heat_map(
        [short(row) for row in rows],
        [time.noise_level for time in shown],
        accuracy_table(report, rows, shown),
        (
            rows.index(chosen["tap"]),
            [time.time for time in shown].index(chosen["time"]),
        ),
        f"{report['data']}, step {report['step']}; framed: chosen on held-out images",
        ["+".join(f"{level:.3g}" for level in time.levels()) for time in shown],
    )


def protocol(
    config: ConfigDict, train_count: int, held_out_count: int, test_count: int
) -> dict:
    """What the JSON file says of how it was measured."""
    probe = config.probe
    facts = {
        "classifier": probe.classifier,
        "label_fraction": probe.label_fraction,
        "train_images": train_count,
        "held_out_images": held_out_count,
        "test_images": test_count,
        "weights": "EMA",
        "noise": "one draw an image, shared by all times; fresh in test",
        "time_convention": "noise level" if probe.noise_levels else "published",
        "concatenated": probe.concat or "nothing",
    }
    if probe.classifier in probe_fixed.CLASSIFIERS:
        facts["draws"] = probe.draws
        facts["shifts"] = f"{probe.shifts} down, {probe.shifts} right; raw pixels: none"
        if probe.draws > 1:
            facts["noise"] = (
                f"mean features over {probe.draws} draws an image, shared by all "
                "times; fresh in test"
            )
        return facts | probe_fixed.protocol(probe)
    facts |= {
        "epochs": probe.epochs,
        "batch_size": probe.batch_size,
        "learning_rate": probe.learning_rate,
        "schedule": "cosine per epoch to 0",
        "flip": probe.flip,
        "crop": probe.crop,
    }
    if probe.classifier == "attentive":
        facts["attention_heads"] = probe.attentive_heads
        facts["queries"] = probe.attentive_queries
        facts["raw_pixels"] = "one position"
    return facts


def summary(report: dict) -> str:
    """The outcome in one line."""
    chosen = report["chosen"]
    levels = chosen.get("noise_levels", [chosen["noise_level"]])
    line = (
        f"probe of step {report['step']}: test accuracy {100 * chosen['test']:.2f} % "
        f"at {short(chosen['tap'])}, noise level "
        f"{'+'.join(f'{level:.3g}' for level in levels)} (chosen on held-out images), "
        f"{len(report['seeds'])} seed(s)"
    )
    for name, result in report["baselines"].items():
        line += f"; {name} {100 * result['chosen']['test']:.2f} %"
    return line
