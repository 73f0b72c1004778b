"""Classifiers on features of a trained denoiser, over taps and noise levels."""

import dataclasses
import pathlib
import time as clock
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Bool

from ddae_jax.data import source as data_source
from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.cache import FeatureCache, model_identity
from ddae_jax.features.encode import Encode, Pixels
from ddae_jax.features.shifted import Shifted
from ddae_jax.heads import FIXED_HEADS, TRAINED_HEADS
from ddae_jax.heads.linear import Kind
from ddae_jax.report import pictures
from ddae_jax.report.wording import short
from ddae_jax.runtime import files, parallel, processes
from ddae_jax.runtime.identity import of
from ddae_jax.runtime.random import stream
from ddae_jax.settings.probe import ProbeSettings
from ddae_jax.tasks.probe import fixed as probe_fixed
from ddae_jax.tasks.probe.adam import AdamProbe
from ddae_jax.tasks.probe.data import check_sources, labelled_by_seed
from ddae_jax.tasks.probe.grid import (
    Accuracies,
    Time,
    columns,
    resolve_times,
    summarise,
)
from ddae_jax.tasks.probe.table import heat_map, table
from ddae_jax.train.folders import clear, keep_only
from ddae_jax.train.plan import steps_of_epochs

_FEW_STEPS = 300
_PIXELS = Time(given=0.0, time=0.0, noise_level=0.0)  # the clean image


def run(experiment: Experiment) -> None:
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
    probe = experiment.settings.probe
    report = measure(experiment)
    experiment.write_json(f"{probe.output}.json", report)

    def write():
        (experiment.workdir / f"{probe.output}.txt").write_text(table(report))
        with files.replacing(experiment.workdir / f"{probe.output}.png") as part:
            part.write_bytes(pictures.png(heat_map(report)))

    processes.on_first(write)
    logging.info("%s", summary(report))


def measure(experiment: Experiment, trained: Trained | None = None) -> dict:
    """Probes the checkpoint, or `trained`; returns what `run` writes as OUTPUT.json."""
    started = clock.monotonic()
    probe = experiment.settings.probe
    trained = trained or experiment.trained()
    mesh = trained.mesh
    parallel.check_batch_size("config.probe.batch_size", probe.batch_size, mesh)
    process = trained.denoiser.process
    times = resolve_times(probe, process, process.probe_times)
    train = data_source.first(experiment.source("train"), probe.train_count)
    test = data_source.first(experiment.source("test"), probe.test_count)
    trained.check_images(train)
    check_sources(train, test, train.image_shape)
    by_seed = labelled_by_seed(experiment, train)
    paths = trained.denoiser.network.tap_paths()
    taps = tuple(tap for tap in paths if not probe.taps or tap in probe.taps)

    if probe.classifier == "adam":
        _warn_of_few_steps(probe, len(by_seed[experiment.settings.seed][0]))

    def score_all(name: str, network: Network, times: tuple[Time, ...]):
        logging.info("%s: %s", probe.output, name)
        scores = [
            score(experiment, network, times, labelled, held_out, test, seed)
            for seed, (labelled, held_out) in by_seed.items()
        ]
        return summarise(scores, columns(times, probe.concat), len(test))

    result = score_all("trained network", network(experiment, trained, taps), times)
    baselines = {}
    if probe.baselines:
        blank = experiment.untrained()
        baselines["untrained"] = score_all(
            "untrained network", network(experiment, blank, taps), times
        )
        baselines["pixels"] = score_all("raw pixels", _pixels(experiment), (_PIXELS,))
    clear(heads_folder(experiment))  # all is measured: nothing will go on in it
    labelled, held_out = by_seed[experiment.settings.seed]
    return {
        "step": trained.step,
        "data": train.name,
        "class_count": len(train.class_names),
        "protocol": protocol(experiment, len(labelled), int(held_out.sum()), len(test)),
        "seeds": list(by_seed),
        "seconds": round(clock.monotonic() - started, 1),
        **result,
        "baselines": baselines,
    }


@dataclasses.dataclass(frozen=True)
class Network:
    """What gives features.

    Attributes:
      label: names the folder in which its heads are trained.
      encode: the features.
      params: for it, on the mesh.
      cache: of its features; None where they are not kept.
    """

    label: str
    encode: Encode
    params: dict
    cache: FeatureCache | None = None


def network(
    experiment: Experiment,
    trained: Trained,
    taps: tuple[str, ...],
) -> Network:
    """The features of a denoiser that config.probe.classifier takes."""
    probe = experiment.settings.probe
    encode = trained.encoder(taps, _pooled(probe))
    if probe.shifts > 1:
        encode = Shifted(encode, probe.shifts)
    cache = None
    if probe.cache and probe.classifier in FIXED_HEADS:
        folder = pathlib.Path(probe.cache_folder or experiment.workdir / "features")
        identity = model_identity(encode, trained.variables)
        cache = FeatureCache(folder, identity, f"step{trained.step:08d}")
    return Network(f"step{trained.step:08d}", encode, trained.variables, cache)


def _pixels(experiment: Experiment) -> Network:
    return Network("pixels", Pixels(_pooled(experiment.settings.probe)), {})


def _pooled(probe: ProbeSettings) -> bool:
    """Whether the head takes the mean over positions."""
    if probe.classifier in FIXED_HEADS:
        return True
    return TRAINED_HEADS[probe.classifier](probe).pooled


def heads_folder(experiment: Experiment) -> pathlib.Path:
    """Where heads are trained; it stays where the probe is interrupted."""
    return experiment.workdir / f"{experiment.settings.probe.output}_heads"


def score(
    experiment: Experiment,
    network: Network,
    times: tuple[Time, ...],
    train: Source,
    held_out: Bool[np.ndarray, "count"],
    test: Source,
    seed: int,
) -> Accuracies:
    """Trains all heads of one seed; scores them on held-out and on test images."""
    probe, mesh = experiment.settings.probe, experiment.mesh
    points = tuple(time.time for time in times)
    if probe.classifier in FIXED_HEADS:
        fixed = FIXED_HEADS[probe.classifier](probe)
        extract = probe_fixed.Extractor(
            network.encode,
            network.params,
            mesh,
            points,
            probe.batch_size,
            probe.draws,
            network.cache,
        )
        return probe_fixed.score(
            fixed, probe.concat, extract, train, held_out, test, seed
        )
    encode = network.encode
    head = TRAINED_HEADS[probe.classifier](probe)
    _check_widths(head, encode, network.params, train.image_shape)
    trainer = AdamProbe(
        encode,
        points,
        len(train.class_names),
        probe.epochs,
        probe.batch_size,
        probe.learning_rate,
        probe.flip,
        probe.crop,
        experiment.settings.data.threads,
        probe.concat,
        head,
    )
    fit_key = stream(seed, "probe/fit")
    folder = heads_folder(experiment) / f"{network.label}_seed{seed}"
    identity = of(
        trainer=trainer,
        network=model_identity(encode, network.params),
        data=of_source(train),
        held_out=held_out,
        seed=seed,
        devices=mesh.size,
    )
    keep_only(folder, identity)
    both = trainer.fit(
        folder,
        network.params,
        mesh,
        train,
        held_out,
        fit_key,
        seed,
        experiment.settings.train.steps_per_dispatch,
    )
    keys = (stream(seed, "probe/held_out_noise"), stream(seed, "probe/test_noise"))
    sources = (data_source.subset(train, np.flatnonzero(held_out)), test)
    return Accuracies(
        *(
            trainer.accuracies(heads, network.params, mesh, source, part_key)
            for heads, source, part_key in zip(both, sources, keys, strict=True)
        )
    )


def _warn_of_few_steps(probe: ProbeSettings, count: int) -> None:
    steps = steps_of_epochs(probe.epochs, count, probe.batch_size)
    if steps < _FEW_STEPS:
        logging.warning(
            "%s: %d epochs of %d images are %d steps of Adam, too few to converge; "
            "--config.probe.classifier=logistic does, or give more "
            "--config.probe.epochs",
            probe.output,
            probe.epochs,
            count,
            steps,
        )


def _check_widths(
    head: Kind, encode: Encode, params: dict, image_shape: tuple[int, int, int]
) -> None:
    noise = encode.noise_shape(image_shape)
    blanks = [jax.ShapeDtypeStruct((1, *s), jnp.float32) for s in (image_shape, noise)]
    time = jax.ShapeDtypeStruct((), jnp.float32)
    for tap, shape in jax.eval_shape(encode, params, *blanks, time).items():
        try:
            head.check(shape.shape[-1])
        except UserError as error:
            raise UserError(f"config.probe.classifier: {tap}: {error}") from error


def protocol(
    experiment: Experiment, train_count: int, held_out_count: int, test_count: int
) -> dict:
    """What the JSON file says of how it was measured."""
    probe = experiment.settings.probe
    facts = {
        "classifier": probe.classifier,
        "label_fraction": probe.label_fraction,
        "train_images": train_count,
        "held_out_images": held_out_count,
        "test_images": test_count,
        "weights": "EMA",
        "noise": "one draw per image, shared by all times; fresh in test",
        "time_convention": "noise level" if probe.noise_levels else "published",
        "concatenated": probe.concat or "nothing",
    }
    if probe.shifts > 1:
        facts["shifts"] = f"{probe.shifts} down, {probe.shifts} right; raw pixels: none"
    if probe.classifier in FIXED_HEADS:
        facts["draws"] = probe.draws
        if probe.draws > 1:
            facts["noise"] = (
                f"mean features over {probe.draws} draws per image, shared by all "
                "times; fresh in test"
            )
        head = FIXED_HEADS[probe.classifier](probe)
        return facts | head.protocol() | {"augmentation": "none"}
    facts |= {
        "epochs": probe.epochs,
        "batch_size": probe.batch_size,
        "learning_rate": probe.learning_rate,
        "schedule": "cosine per epoch to 0",
        "flip": probe.flip,
        "crop": probe.crop,
    }
    return facts | TRAINED_HEADS[probe.classifier](probe).protocol()


def summary(report: Mapping[str, Any]) -> str:
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
