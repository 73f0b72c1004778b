"""Classes, probabilities and features of the user's own images."""

import contextlib
import dataclasses
import time as clock

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from ddae_jax.data import image_files
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import encode_batches
from ddae_jax.metrics.classification import accuracy
from ddae_jax.report import outcome, pictures
from ddae_jax.runtime import log, parallel, processes
from ddae_jax.tasks.predict import files as predict_files
from ddae_jax.tasks.predict import head as predict_head
from ddae_jax.tasks.predict import known
from ddae_jax.tasks.predict.head import Predictor

_SHOWN = 8  # images in a row of the picture


def run(experiment: Experiment) -> None:
    """Predicts every image below config.predict.images.

    Images are decoded batch by batch and written to disk as they come: memory does not
    grow with their number. Each gets one draw of noise, which depends on its place in
    the sorted list.

    Writes predictions.csv (with a head), features.npz, predict.json, predict.txt and
    predict.png into `workdir`.

    Raises:
      UserError: no checkpoint; no images, or one that cannot be read; no head can be
        trained.
    """
    started = clock.monotonic()
    field = "config.predict.images"
    if not experiment.settings.predict.images:
        raise UserError(f"{field}: name a file or a folder")
    root, paths = image_files.find(experiment.settings.predict.images, field)
    batch_size = experiment.settings.predict.batch_size
    mesh = experiment.mesh
    parallel.check_batch_size("config.predict.batch_size", batch_size, mesh)
    model = predict_head.load(experiment)
    source = image_files.source(
        field,
        paths,
        model.image_shape,
        image_files.enlarges(experiment.settings.data.name),
        threads=experiment.settings.data.threads,
        resize=experiment.settings.data.resize,
    )
    files = [path.relative_to(root).as_posix() for path in paths]
    found = _predict(experiment, model, source, files)
    protocol = {
        "images": len(source),
        "folder": experiment.settings.predict.images,
        "noise": "one draw per image",
        **model.head.facts,
        "batch_size": batch_size,
        "seed": experiment.settings.seed,
        "seconds": round(clock.monotonic() - started, 1),
    }
    labels = None
    if model.head.probabilities:
        labels = known.of_folders(files, model.head.class_names)
    told = _outcome(model, source, found, labels, protocol)
    outcome.write(experiment.workdir, "predict", told)
    logging.info("predict: %s", experiment.workdir / predict_files.FEATURES)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is remembered of all images: two numbers each.

    Attributes:
      classes: the most probable.
      confidences: its probability, in [0, 1].
    """

    classes: Int[np.ndarray, "count"]
    confidences: Float[np.ndarray, "count"]


def _predict(
    experiment: Experiment,
    model: Predictor,
    source: Source,
    files: list[str],
) -> Found:
    facts = {
        "files": np.array(files),
        "tap": np.array(model.tap),
        "noise_level": np.array(model.noise_level),
        "class_names": np.array(model.head.class_names, str),
    }
    noise_key = experiment.stream("predict/noise")
    batches = encode_batches(
        [(model.encode, model.time)],
        model.trained.variables,
        model.trained.mesh,
        source,
        noise_key,
        experiment.settings.predict.batch_size,
    )
    classes, confidences, done = [], [], 0
    progress = log.Progress("predict", len(source))
    with contextlib.ExitStack() as stack:
        writing = jax.process_index() == 0
        if writing:
            add_features = stack.enter_context(
                predict_files.features(experiment.workdir, len(source), facts)
            )
        if writing and model.head.probabilities:
            add_predictions = stack.enter_context(
                predict_files.predictions(
                    experiment.workdir, files, model.head.class_names
                )
            )
        for _, (features,) in batches:
            count = len(features[model.tap])
            if writing:
                add_features(features[model.tap])
            if model.head.probabilities:
                probabilities = model.head.probabilities(features[model.tap])
                classes.append(probabilities.argmax(axis=1))
                confidences.append(probabilities.max(axis=1))
                if writing:
                    add_predictions(probabilities)
            done += count
            progress.advance(done)
            if done * 10 // len(source) > (done - count) * 10 // len(source):
                progress.report(done, "images")
    progress.close()
    if not model.head.probabilities:
        # Classes of an earlier call are not those of these images.
        earlier = experiment.workdir / predict_files.PREDICTIONS
        processes.on_first(lambda: earlier.unlink(missing_ok=True))
        return Found(np.zeros(0, int), np.zeros(0))
    return Found(np.concatenate(classes), np.concatenate(confidences))


def _outcome(
    model: Predictor,
    source: Source,
    found: Found,
    labels: Int[np.ndarray, "count"] | None,
    protocol: dict,
) -> outcome.Outcome:
    where = f"{model.tap}, noise level {model.noise_level:.3g}"
    facts = {
        "step": model.trained.step,
        "images": len(source),
        "tap": model.tap,
        "noise_level": model.noise_level,
    }
    if not model.head.probabilities:
        return outcome.Outcome(
            title="Features of your images",
            summary=f"features of {len(source)} images at {where}",
            facts=facts,
            protocol=protocol,
            headers=("file", "holds"),
            rows=[(predict_files.FEATURES, "features, files, tap, noise_level")],
            pictures=[],
        )
    rows, counts = [], {}
    for label, name in enumerate(model.head.class_names):
        own = found.confidences[found.classes == label]
        counts[name] = len(own)
        mean = float(own.mean()) if len(own) else "–"
        rows.append((name, len(own), mean))
    confidence = float(found.confidences.mean())
    facts |= {"mean_confidence": confidence, "counts": counts}
    summary = (
        f"{len(source)} images at {where}; mean probability of the predicted class "
        f"{confidence:.3f}"
    )
    headers = ("predicted class", "images", "mean probability")
    if labels is not None:  # the folders name the classes
        right = found.classes == labels
        facts["accuracy"] = accuracy(found.classes, labels)
        summary += f"; accuracy {100 * facts['accuracy']:.2f} %, by folder"
        headers += ("in its folder", "of them right")
        rows = [
            (*row, int((labels == label).sum()), int(right[labels == label].sum()))
            for label, row in enumerate(rows)
        ]
    return outcome.Outcome(
        title="Predictions for your images",
        summary=summary,
        facts=facts,
        protocol=protocol,
        headers=headers,
        rows=rows,
        pictures=[
            outcome.Picture(
                "The images of the most (above) and least confident predictions",
                _gallery(source, found, model.head.class_names),
            )
        ],
    )


def _gallery(source: Source, found: Found, class_names: tuple[str, ...]) -> Figure:
    """Two rows of images: the most and the least confident predictions."""
    order = np.argsort(-found.confidences, kind="stable")
    rows = []
    for chosen in (order[:_SHOWN], order[::-1][:_SHOWN]):
        names = [class_names[label] for label in found.classes[chosen]]
        titles = [
            f"{name}\n{100 * confidence:.1f} %"
            for name, confidence in zip(names, found.confidences[chosen], strict=True)
        ]
        images = source.read(chosen)
        rows.append(list(map(pictures.Tile, images, titles)))
    return pictures.gallery(rows, ("most", "least"))
