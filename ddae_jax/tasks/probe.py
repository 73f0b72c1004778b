"""Linear classifiers on features of a trained denoiser, over taps and noise levels."""

import functools
import pathlib
import time as clock
from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Bool, PRNGKeyArray
from ml_collections import ConfigDict

from ddae_jax import parallel, plots
from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.features import Encode, encode_set, pixels
from ddae_jax.heads import logistic
from ddae_jax.tasks import common
from ddae_jax.tasks.probe_adam import AdamProbe
from ddae_jax.tasks.probe_grid import (
    Score,
    Time,
    accuracy_table,
    resolve_times,
    summarise,
)
from ddae_jax.tasks.probe_table import table

_PIXELS = Time(given=0.0, time=0.0, noise_level=0.0)  # the clean image


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Probes the checkpoint, and the baselines in the same way.

    The cell (tap, time) is chosen by heads that were trained without the held-out part
    of the training set, on that part; the test set plays no role in it. Heads trained
    on the whole training set are what is tested.

    Writes probe.json (all figures), probe.txt (a table) and probe.png (test accuracy by
    tap and noise level) into `workdir`.

    Raises:
      UserError: no checkpoint; a time or noise level that the process does not have;
        images of another shape than the checkpoint's; too few images or classes.
    """
    started = clock.monotonic()
    workdir = pathlib.Path(workdir)
    probe = config.probe
    trained = common.restore_ema(config, workdir)
    mesh = trained.mesh
    parallel.check_batch_size("config.probe.batch_size", probe.batch_size, mesh)
    times = resolve_times(probe, trained.denoiser.process)
    train = _first(common.load_source(config, "train"), probe.train_count)
    test = _first(common.load_source(config, "test"), probe.test_count)
    common.check_images(trained, train)
    check_sources(train, test, train.image_shape)
    masks = masks_by_seed(config, train)
    paths = trained.denoiser.network.tap_paths()
    taps = tuple(tap for tap in paths if not probe.taps or tap in probe.taps)

    def measure(name: str, encode: Encode, params: dict, times: tuple[Time, ...]):
        logging.info("probe: %s", name)
        scores = [
            score(config, encode, params, mesh, times, train, mask, test, seed)
            for seed, mask in masks.items()
        ]
        return summarise(scores, times, len(test))

    result = measure(
        "trained network", common.encoder(trained, taps), trained.variables, times
    )
    baselines = {}
    if probe.baselines:
        blank = common.untrained(config, workdir)
        baselines["untrained"] = measure(
            "untrained network", common.encoder(blank, taps), blank.variables, times
        )
        baselines["pixels"] = measure("raw pixels", pixels, {}, (_PIXELS,))
    held_out_count = int(next(iter(masks.values())).sum())
    report = {
        "step": trained.step,
        "data": train.name,
        "class_count": len(train.class_names),
        "protocol": protocol(config, len(train), held_out_count, len(test)),
        "seeds": list(masks),
        "seconds": round(clock.monotonic() - started, 1),
        **result,
        "baselines": baselines,
    }
    common.write_json(workdir, "probe.json", report)
    if jax.process_index() == 0:
        (workdir / "probe.txt").write_text(table(report))
        chosen = report["chosen"]
        plots.heat_map(
            workdir / "probe.png",
            taps,
            [time.noise_level for time in times],
            accuracy_table(report, taps, times),
            (
                taps.index(chosen["tap"]),
                [time.time for time in times].index(chosen["time"]),
            ),
            f"{train.name}, step {trained.step}; framed: chosen on held-out images",
        )
    logging.info("%s", summary(report))


def _first(source: Source, count: int) -> Source:
    if not count or count >= len(source):
        return source
    return data_source.subset(source, np.arange(count))


def check_sources(train: Source, test: Source, image_shape: tuple[int, ...]) -> None:
    """Raises a UserError where nothing can be classified, or nothing compared."""
    for source in (train, test):
        if tuple(source.image_shape) != tuple(image_shape):
            raise UserError(
                f"config.data: images of {source.name} are {source.image_shape}, the "
                f"checkpoint was trained on {tuple(image_shape)}"
            )
    classes = len(train.class_names)
    if classes < 2 or len(np.unique(train.labels)) < 2:
        raise UserError(
            f"config.data.name: the {len(train)} training images used of {train.name} "
            "are of one class; a probe needs two (train_count takes the first images)"
        )
    if len(train) < classes:
        raise UserError(
            f"config.probe.train_count: {len(train)} training images of {train.name} "
            f"are fewer than its {classes} classes"
        )


def masks_by_seed(
    config: ConfigDict, train: Source
) -> dict[int, Bool[np.ndarray, "count"]]:
    """Maps each seed to the mask of the training images that are held out.

    Raises:
      UserError: fewer images are held out than there are classes.
    """
    seeds = range(config.seed, config.seed + config.probe.seeds)
    share = config.probe.held_out
    try:
        masks = {seed: data_source.held_out_mask(train, share, seed) for seed in seeds}
    except UserError as error:
        raise UserError(f"config.probe.held_out: {error}") from error
    count = int(masks[config.seed].sum())
    if count < len(train.class_names):
        raise UserError(
            f"config.probe.held_out: {share} of {len(train)} images holds out {count}, "
            f"too few to choose by for {len(train.class_names)} classes"
        )
    return masks


def score(
    config: ConfigDict,
    encode: Encode,
    params: dict,
    mesh: Mesh,
    times: tuple[Time, ...],
    train: Source,
    held_out: Bool[np.ndarray, "count"],
    test: Source,
    seed: int,
) -> Score:
    """Trains all heads of one seed; scores them on held-out and on test images."""
    method: Callable = {"adam": _adam, "logistic": _logistic}[config.probe.classifier]
    # 1 is training's.
    key = jax.random.fold_in(jax.random.key(seed), 2)
    points = tuple(time.time for time in times)
    return method(
        config, encode, params, mesh, points, train, held_out, test, seed, key
    )


def _adam(
    config, encode, params, mesh, times, train, held_out, test, seed, key: PRNGKeyArray
) -> Score:
    probe = config.probe
    protocol = AdamProbe(
        encode,
        times,
        len(train.class_names),
        probe.epochs,
        probe.batch_size,
        probe.learning_rate,
        probe.flip,
        probe.crop,
        config.data.threads,
    )
    fit_key, *keys = jax.random.split(key, 3)
    both = protocol.fit(params, mesh, train, held_out, fit_key, seed)
    sources = (data_source.subset(train, np.flatnonzero(held_out)), test)
    return Score(
        *(
            protocol.accuracies(heads, params, mesh, source, part_key)
            for heads, source, part_key in zip(both, sources, keys, strict=True)
        )
    )


def _logistic(
    config, encode, params, mesh, times, train, held_out, test, seed, key: PRNGKeyArray
) -> Score:
    probe = config.probe
    features_of = functools.partial(
        encode_set, encode, params, mesh, times=times, batch_size=probe.batch_size
    )
    train_key, test_key = jax.random.split(key)
    train_features = features_of(source=train, key=train_key)
    test_features = features_of(source=test, key=test_key)

    def fit(name, inputs, labels):
        head = logistic.fit(inputs, labels, len(train.class_names), probe.l2)
        if not head.converged:
            logging.warning(
                "probe: %s stopped at gradient norm %.1e", name, head.gradient_norm
            )
        return head

    by_held_out, by_test = [], []
    for at_time, test_at_time in zip(train_features, test_features, strict=True):
        by_held_out.append({})
        by_test.append({})
        for name, inputs in at_time.items():
            choosing = fit(name, inputs[~held_out], train.labels[~held_out])
            by_held_out[-1][name] = choosing.accuracy(
                inputs[held_out], train.labels[held_out]
            )
            final = fit(name, inputs, train.labels)
            by_test[-1][name] = final.accuracy(test_at_time[name], test.labels)
    return Score(by_held_out, by_test)


def protocol(
    config: ConfigDict, train_count: int, held_out_count: int, test_count: int
) -> dict:
    """What probe.json says of how it was measured."""
    probe = config.probe
    facts = {
        "classifier": probe.classifier,
        "train_images": train_count,
        "held_out_images": held_out_count,
        "test_images": test_count,
        "weights": "EMA",
        "noise": "one draw an image, shared by all times; fresh in test",
        "time_convention": "noise level" if probe.noise_levels else "published",
    }
    if probe.classifier == "logistic":
        return facts | {"l2": probe.l2, "standardised": True, "augmentation": "none"}
    return facts | {
        "epochs": probe.epochs,
        "batch_size": probe.batch_size,
        "learning_rate": probe.learning_rate,
        "schedule": "cosine per epoch to 0",
        "flip": probe.flip,
        "crop": probe.crop,
    }


def summary(report: dict) -> str:
    """The outcome in one line."""
    chosen = report["chosen"]
    line = (
        f"probe of step {report['step']}: test accuracy {100 * chosen['test']:.2f} % "
        f"at {chosen['tap']}, noise level {chosen['noise_level']:.3g} (chosen on "
        f"held-out images), {len(report['seeds'])} seed(s)"
    )
    for name, result in report["baselines"].items():
        line += f"; {name} {100 * result['chosen']['test']:.2f} %"
    return line
