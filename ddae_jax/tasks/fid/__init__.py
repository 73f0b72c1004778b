"""FID, Inception score, precision and recall, KID of samples against a reference."""

import dataclasses
import time as clock

import jax
import numpy as np

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.metrics import scores
from ddae_jax.metrics.frechet import frechet_distance
from ddae_jax.report import figures, outcome, pictures
from ddae_jax.runtime import parallel
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid import network as fid_network
from ddae_jax.tasks.fid import reference as fid_reference
from ddae_jax.tasks.fid import samples as fid_samples
from ddae_jax.tasks.fid.collect import Extract
from ddae_jax.tasks.fid.feature_network import FeatureNetwork
from ddae_jax.tasks.fid.reference import Reference
from ddae_jax.tasks.fid.samples import Samples


@dataclasses.dataclass(frozen=True)
class Measure:
    """All that is needed to measure checkpoint after checkpoint.

    Attributes:
      network: whose features are compared.
      extract: the compiled network.
      reference: what samples are compared with.
      mesh: of the devices.
    """

    network: FeatureNetwork
    extract: Extract
    reference: Reference
    mesh: jax.sharding.Mesh

    @property
    def distance_name(self) -> str:
        """FID where the features are Inception's, and only there."""
        return "FID" if self.network.classes else "Frechet distance"


def prepare(experiment: Experiment) -> Measure:
    """Reads or makes the feature network and the statistics of the reference.

    Raises:
      UserError: files that are missing or do not fit each other.
    """
    mesh = experiment.mesh
    parallel.check_batch_size(
        "config.fid.batch_size", experiment.settings.fid.batch_size, mesh
    )
    network = fid_network.feature_network(experiment)
    extract = fid_features.extractor(network, mesh)
    cache = fid_network.cache_folder(experiment)
    reference = fid_reference.prepare(experiment, network, extract, mesh, cache)
    return Measure(network, extract, reference, mesh)


def check_checkpoint(
    experiment: Experiment, measure: Measure, trained: Trained
) -> None:
    """Raises a UserError where samples of the checkpoint cannot be compared."""
    shape = fid_samples.image_shape(trained)
    measure.network.check_images("the checkpoint", shape)
    if experiment.settings.fid.reference:
        return
    given = tuple(experiment.source("train").image_shape)
    if given != shape:
        raise UserError(
            f"config.data: images of {experiment.settings.data.name} are {given}, the "
            f"checkpoint draws {shape}: name what it was trained on, or set "
            "config.fid.reference"
        )


def distance(measure: Measure, samples: Samples) -> float:
    """The Frechet distance of samples from the reference."""
    return frechet_distance(
        measure.reference.statistics, samples.collected.statistics()
    )


def run(experiment: Experiment) -> None:
    """Measures samples of the checkpoint, or those in config.fid.samples.

    Writes fid.json, fid.txt, fid.png (samples beside reference images, where there
    are any) and the spectra of both covariances.

    Raises:
      UserError: see docs/fid.md: files that are missing, damaged or do not fit; too
        few images; no checkpoint.
    """
    started = clock.monotonic()
    trained = None if experiment.settings.fid.samples else experiment.trained()
    measure = prepare(experiment)
    network, reference = measure.network, measure.reference
    if trained is None:
        samples = fid_samples.from_files(
            experiment, measure.mesh, network, measure.extract
        )
    else:
        check_checkpoint(experiment, measure, trained)
        samples = fid_samples.drawn(experiment, trained, network, measure.extract)
    value = distance(measure, samples)
    name = measure.distance_name
    rows = [(name, value, "", f"{samples.name} / {reference.name}")]
    if experiment.settings.fid.test_images:
        rows.append(_of_test_images(experiment, measure))
    others, more = _other_metrics(experiment, measure, samples)
    facts = {"step": None if trained is None else trained.step, "fid": value}
    outcome.write(
        experiment.workdir,
        experiment.settings.fid.output,
        outcome.Outcome(
            title=f"{name} of generated images",
            summary=f"{name} {value:.4g}: {samples.name}, against {reference.name}, "
            f"features of {network.name}",
            facts=facts | {"distance": name, "features": network.name} | more,
            protocol=_protocol(experiment, measure, samples)
            | {"seconds": round(clock.monotonic() - started, 1)},
            headers=("metric", "value", "standard deviation", "of"),
            rows=rows + others,
            pictures=_pictures(samples, reference),
            note=_note(measure, samples),
        ),
    )


def _other_metrics(experiment, measure, samples) -> tuple[list[tuple], dict]:
    """Rows and facts of the metrics beside the distance."""
    fid, rows, facts = experiment.settings.fid, [], {}
    score = samples.collected.inception_score()
    if score is not None:
        rows.append(
            ("Inception score", score.mean, score.standard_deviation, f"{samples.name}")
        )
        facts["inception_score"] = dataclasses.asdict(score)
    real, fake = measure.reference.features, samples.collected.features()
    if real is None or fake is None:
        return rows, facts
    of = f"{len(fake):,} / {len(real):,}"
    found = scores.precision_recall(real, fake, fid.neighbours)
    rows.append(("precision", found.precision, "", of))
    rows.append(("recall", found.recall, "", of))
    facts |= dataclasses.asdict(found)
    size = min(fid.kid_subset_size, len(real), len(fake))
    kid = scores.kernel_distance(real, fake, size, fid.kid_subsets)
    of += f", {fid.kid_subsets} subsets of {size:,}"
    rows.append(("KID" if measure.network.classes else "kernel distance", kid.mean))
    rows[-1] += (kid.standard_deviation, of)
    facts["kid"] = dataclasses.asdict(kid)
    return rows, facts


def _of_test_images(experiment: Experiment, measure: Measure) -> tuple:
    """The distance of real images that the network never saw: what is within reach."""
    source: Source = experiment.source("test")
    source.check_images()
    measure.network.check_images("config.data", source.image_shape)
    fid_reference.check_count(experiment, "config.data: test images", len(source))
    batches = fid_features.source_batches(
        source, measure.mesh, experiment.settings.fid.batch_size
    )
    start = fid_features.start(measure.network, len(source))
    found = fid_features.collect(measure.extract, batches, start)
    value = frechet_distance(measure.reference.statistics, found.statistics())
    name = f"{measure.distance_name} of real test images"
    return (name, value, "", f"{len(source):,} images / {measure.reference.name}")


def _protocol(experiment: Experiment, measure: Measure, samples: Samples) -> dict:
    """How it was measured."""
    fid, reference = experiment.settings.fid, measure.reference
    protocol = {
        **samples.facts,
        "sample_count": samples.collected.count,
        "reference": reference.name,
        "reference_identity": reference.identity,
        "reference_count": reference.statistics.count,
        **measure.network.facts,
        "feature_width": measure.network.width,
        "numbers": "float32 features, float64 sums, covariance with n - 1",
    }
    if samples.collected.scores is not None:
        protocol["inception_score_splits"] = fid.inception_splits
        protocol["inception_score_logits"] = "without the bias, as published"
    if reference.features is not None and samples.collected.kept:
        protocol["precision_recall_neighbours"] = fid.neighbours
        protocol["precision_recall_kid_choice"] = "at random, seed 0"
        protocol["precision_recall_kid_samples"] = len(samples.collected.features())
        protocol["precision_recall_kid_reference"] = len(reference.features)
        protocol["kid_subsets"] = fid.kid_subsets
    return protocol


def _note(measure: Measure, samples: Samples) -> str:
    """What a reader must know beside the numbers."""
    notes = ["The distance depends on the number of samples: compare equal counts."]
    network, count = measure.network, samples.collected.count
    if not network.classes:
        notes.append(
            f"Features are of {network.name}: not to be compared with Inception's FID."
        )
    if count <= network.width:
        notes.append(
            f"{count:,} samples cannot fill {network.width:,} dimensions: the distance "
            "is biased upwards."
        )
    if measure.reference.features is None:
        notes.append(
            "The reference has no images: no precision, recall and kernel distance."
        )
    return " ".join(notes)


def _pictures(samples: Samples, reference: Reference) -> list[outcome.Picture]:
    """Some images of both sets, and the eigenvalues of both covariances."""
    caption = f"{len(samples.first)} samples (left)"
    sets = {"samples": samples.first}
    if reference.first is not None:
        caption += f", {len(reference.first)} images of the reference (right)"
        sets["reference"] = reference.first
    statistics = {
        "samples": samples.collected.statistics(),
        "reference": reference.statistics,
    }
    variances = {
        name: np.linalg.eigvalsh(of_set.covariance)
        for name, of_set in statistics.items()
    }
    return [
        outcome.Picture(caption, pictures.side_by_side(sets)),
        outcome.Picture(
            "Variance of the features along the principal axes of each set",
            figures.spectra_figure(variances),
        ),
    ]
