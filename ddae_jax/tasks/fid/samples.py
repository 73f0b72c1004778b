"""The samples that config.fid asks about: drawn on the spot, or files."""

import dataclasses
import pathlib
import shutil
import time as clock
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from jaxtyping import UInt8

from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, autoencoder
from ddae_jax.experiment.trained import Trained
from ddae_jax.generate import generate
from ddae_jax.metrics.frechet import FeatureSums
from ddae_jax.report import grids
from ddae_jax.runtime import parallel, processes
from ddae_jax.runtime.files import replacing
from ddae_jax.runtime.identity import of
from ddae_jax.settings import plain
from ddae_jax.tasks import sample
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid.collect import Collected, Extract
from ddae_jax.tasks.fid.feature_network import FeatureNetwork
from ddae_jax.tasks.fid.reference import SHOWN, check_count, open_images

FIELD = "config.fid.samples"
FOLDER = "fid_samples"
PARTIAL = "fid_partial.npz"
_SAVE_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is known of the generated images.

    Attributes:
      name: for people.
      facts: where they come from: settings, seed or hash.
      collected: features of all of them.
      first: some of them, to be shown.
    """

    name: str
    facts: dict
    collected: Collected
    first: UInt8[np.ndarray, "shown height width channels"]


def image_shape(trained: Trained) -> tuple[int, int, int]:
    """(height, width, channels) of the images that a checkpoint draws.

    Raises:
      UserError: it draws latents, and there is nothing to decode them.
    """
    if trained.latents is not None:
        return trained.latents.image_shape
    if trained.image_shape[-1] > 3:
        raise UserError(autoencoder.MISSING.format(channels=trained.image_shape[-1]))
    return trained.image_shape


def batches(
    experiment: Experiment, trained: Trained, class_count: int, first: int = 0
) -> Iterator[jax.Array]:
    """Yields the samples of --task=sample from `first` on, without end, on the devices.

    They go from the sampler to the feature network without passing through the host.
    """
    size = experiment.settings.sample.batch_size
    parallel.check_batch_size("config.sample.batch_size", size, trained.mesh)
    split = parallel.batch_sharding(trained.mesh)
    generator = sample.configured_draw(
        experiment, trained.denoiser, trained.image_shape, trained.latents
    )
    key = experiment.stream("sample/noise")
    while True:
        indices = np.arange(first, first + size, dtype=np.int32)
        labels = sample.sample_labels(experiment, indices, class_count)
        placed = None if labels is None else parallel.place(labels, split)
        placed_indices = parallel.place(indices, split)
        yield generate(generator, trained.variables, key, placed_indices, placed, split)
        first += size


def drawn(
    experiment: Experiment,
    trained: Trained,
    network: FeatureNetwork,
    extract: Extract,
) -> Samples:
    """Draws config.fid.count samples; a run that was stopped goes on where it was.

    Raises:
      UserError: too few samples for the metrics.
    """
    fid, count = experiment.settings.fid, experiment.settings.fid.count
    check_count(experiment, "config.fid.count", count)
    class_count = experiment.class_count
    sampler = plain.of_chosen(experiment.settings, "sampler")
    facts = {
        "samples": f"drawn from step {trained.step}, EMA weights",
        "sampler": ", ".join(f"{key} {value}" for key, value in sampler.items()),
        "seed": experiment.settings.seed,
    }
    if experiment.settings.train.class_conditional:
        facts["label"] = experiment.settings.sample.label
        facts["guidance_scale"] = experiment.settings.sample.guidance_scale
        facts["guidance_interval"] = str(experiment.settings.sample.guidance_interval)
    start = _start(experiment, network, count)
    identity = of(
        features=features_identity(experiment, trained, network),
        kept=fid.precision_count,
        splits=fid.inception_splits,
        files=fid.keep_samples,
    )
    partial = experiment.workdir / PARTIAL
    shown: list[np.ndarray] = []
    collected = _resume(partial, identity, start, shown)
    folder = experiment.workdir / f"{FOLDER}.part"
    if fid.keep_samples and jax.process_index() == 0 and not collected.count:
        shutil.rmtree(folder, ignore_errors=True)

    def seen():
        place = collected.count
        for images in batches(experiment, trained, class_count, place):
            if place < SHOWN or fid.keep_samples:
                on_host = parallel.on_host(images)[: count - place]
                shown.extend(on_host[: max(SHOWN - len(shown), 0)])
                if fid.keep_samples and jax.process_index() == 0:
                    for number, image in enumerate(on_host, place):
                        grids.write_png(folder / f"{number:06d}.png", image)
            yield images
            place += len(images)

    saved = clock.monotonic()

    def report(so_far):
        nonlocal saved
        if clock.monotonic() - saved > _SAVE_SECONDS and jax.process_index() == 0:
            _save(partial, identity, so_far, np.stack(shown))
            saved = clock.monotonic()

    collected = fid_features.collect(extract, seen(), collected, report, "samples")

    def finish():
        if fid.keep_samples:
            shutil.rmtree(experiment.workdir / FOLDER, ignore_errors=True)
            folder.rename(experiment.workdir / FOLDER)
        partial.unlink(missing_ok=True)

    processes.on_first(finish)
    name = f"{count:,} samples of step {trained.step}"
    return Samples(name, facts, collected, np.stack(shown))


def features_identity(
    experiment: Experiment, trained: Trained, network: FeatureNetwork
) -> str:
    """Changes when the features of what `drawn` draws may."""
    settings = experiment.settings
    sample = settings.sample
    guidance = None
    if settings.train.class_conditional:
        guidance = {
            "classes": experiment.class_count,
            "label": sample.label,
            "scale": sample.guidance_scale,
            "interval": sample.guidance_interval,
            "channels": sample.guidance_channels,
        }
    return of(
        weights=trained.identity(),
        sampler=plain.of_chosen(settings, "sampler"),
        guidance=guidance,
        seed=settings.seed,
        dtype=settings.dtype,
        count=settings.fid.count,
        network=network.facts,
    )


def from_files(
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    network: FeatureNetwork,
    extract: Extract,
) -> Samples:
    """Reads all images of config.fid.samples.

    Raises:
      UserError: the files are not there, do not fit the network, or are too few.
    """
    path = pathlib.Path(experiment.settings.fid.samples).expanduser()
    images = open_images(path, FIELD, network, experiment.settings.data.threads)
    source, count = images.source, len(images.source)
    check_count(experiment, FIELD, count)
    collected = fid_features.collect(
        extract,
        fid_features.source_batches(source, mesh, experiment.settings.fid.batch_size),
        _start(experiment, network, count),
        what="samples",
    )
    facts = {"samples": str(path), "samples_identity": images.identity}
    first = source.read(fid_features.chosen(count, SHOWN))
    return Samples(images.name, facts, collected, first)


def _start(experiment: Experiment, network: FeatureNetwork, count: int) -> Collected:
    fid = experiment.settings.fid
    try:
        return fid_features.start(
            network, count, fid.precision_count, fid.inception_splits
        )
    except UserError as error:
        raise UserError(f"config.fid.inception_splits: {error}") from error


def _save(path: pathlib.Path, identity: str, collected: Collected, shown) -> None:
    arrays = {
        f"sums_{field.name}": getattr(collected.sums, field.name)
        for field in dataclasses.fields(FeatureSums)
    }
    if collected.kept:
        arrays["kept"] = collected.features()
    if collected.scores is not None:
        arrays["marginals"] = collected.scores.marginals
        arrays["negentropies"] = collected.scores.negentropies
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, identity=identity, shown=shown, **arrays)


def _resume(
    path: pathlib.Path, identity: str, start: Collected, shown: list
) -> Collected:
    """What `_save` wrote of the same job, or `start`."""
    if not path.is_file():
        return start
    with np.load(path, allow_pickle=False) as arrays:
        if str(arrays["identity"]) != identity:
            return start
        fields = [field.name for field in dataclasses.fields(FeatureSums)]
        stored = {name: arrays[f"sums_{name}"] for name in fields}
        sums = FeatureSums(**stored | {"count": int(stored["count"])})
        shown.extend(arrays["shown"])
        kept = (arrays["kept"],) if "kept" in arrays else ()
        scores = start.scores
        if scores is not None:
            scores = dataclasses.replace(
                scores,
                count=sums.count,
                marginals=arrays["marginals"],
                negentropies=arrays["negentropies"],
            )
    logging.info("fid: goes on after %d samples", sums.count)
    return Collected(sums.count, start.wanted, sums, kept, scores)
