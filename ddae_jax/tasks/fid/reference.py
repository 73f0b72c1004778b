"""What samples are compared with: a data set, a folder of images, or statistics."""

import dataclasses
import pathlib
import zipfile

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from ddae_jax.data import unlabelled
from ddae_jax.data.identity import of_source
from ddae_jax.data.image_folder import image_files
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.metrics import statistics_files
from ddae_jax.metrics.frechet import Statistics
from ddae_jax.runtime import parallel, processes
from ddae_jax.runtime.files import replacing
from ddae_jax.runtime.identity import of, of_file, of_files
from ddae_jax.tasks.fid import collect as fid_features
from ddae_jax.tasks.fid.collect import Extract
from ddae_jax.tasks.fid.feature_network import FeatureNetwork

FIELD = "config.fid.reference"
SHOWN = 36  # images of each set in the picture


@dataclasses.dataclass(frozen=True)
class Images:
    """A set of images under the name that the result gives it.

    Attributes:
      source: the images, read on demand.
      name: for people.
      identity: changes when the images do.
    """

    source: Source
    name: str
    identity: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Attributes:
      name: for people.
      identity: of the images or the file.
      statistics: the Gaussian fit.
      features: of some images, for precision, recall and KID; None of a file that
        has no images.
      first: some of its images, to be shown; None without images.
    """

    name: str
    identity: str
    statistics: Statistics
    features: Float[np.ndarray, "kept width"] | None
    first: UInt8[np.ndarray, "shown height width channels"] | None


def open_images(
    path: pathlib.Path, field: str, network: FeatureNetwork, threads: int
) -> Images:
    """Opens a folder of images, or arr_0 of an .npz file.

    Raises:
      UserError: names `field` and what is wrong with the images.
    """
    try:
        if path.is_dir():
            # Inception sees everything as RGB; a network of one shape takes no other.
            channels = 3 if network.image_shape is None else None
            source = unlabelled.open_folder(path, channels, threads)
            identity = of_files(path, image_files(path))
        elif path.is_file():
            source = unlabelled.open_npz(path)
            identity = of_file(path)
        else:
            raise UserError(f"there is no file or folder {path}")
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    network.check_images(field, source.image_shape)
    return Images(source, f"{path.name}, {len(source):,} images", identity)


def prepare(
    experiment: Experiment,
    network: FeatureNetwork,
    extract: Extract,
    mesh: jax.sharding.Mesh,
    cache: pathlib.Path,
) -> Reference:
    """Reads or computes the statistics of config.fid.reference.

    Those of images are kept in `cache`, under a hash of the network, the images and
    the number of kept features.

    Raises:
      UserError: a reference that is not there, or that does not fit the network.
    """
    given = experiment.settings.fid.reference
    if not given:
        source = experiment.source("train")
        source.check_images()
        name = f"training set of {source.name}, {len(source):,} images"
        images = Images(source, name, of_source(source))
        network.check_images("config.data", source.image_shape)
        return _of_images(experiment, images, network, extract, mesh, cache)
    path = pathlib.Path(given).expanduser()
    if path.suffix in (".npz", ".pkl") and path.is_file():
        names = _names(path)
        if "mu" in names or "arr_0" not in names:
            has_images = "arr_0" in names
            return _of_file(experiment, path, has_images, network, extract, mesh, cache)
    images = open_images(path, FIELD, network, experiment.settings.data.threads)
    return _of_images(experiment, images, network, extract, mesh, cache)


def _names(path: pathlib.Path) -> set[str]:
    """Names of the arrays in an .npz file; of a .pkl file none is known."""
    if path.suffix == ".pkl":
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{FIELD}: {path}: no readable .npz file ({error})") from error


def _of_file(experiment, path, has_images, network, extract, mesh, cache) -> Reference:
    try:
        statistics = statistics_files.read_statistics(path)
    except UserError as error:
        raise UserError(f"{FIELD}: {error}") from error
    width = len(statistics.mean)
    if width != network.width:
        raise UserError(
            f"{FIELD}: {path} has statistics of width {width}, {network.name} gives "
            f"features of width {network.width}"
        )
    count = "" if statistics.count is None else f", {statistics.count:,} images"
    found = Reference(f"{path.name}{count}", of_file(path), statistics, None, None)
    if not has_images:
        return found
    images = open_images(path, FIELD, network, experiment.settings.data.threads)
    of_images = _of_images(experiment, images, network, extract, mesh, cache)
    return dataclasses.replace(
        found, features=of_images.features, first=of_images.first
    )


def _of_images(experiment, images, network, extract, mesh, cache) -> Reference:
    source, keep = images.source, experiment.settings.fid.precision_count
    check_count(experiment, FIELD, len(source))
    shown = source.read(fid_features.chosen(len(source), SHOWN))
    key = of(network=network.facts, images=images.identity, kept=keep)
    path = cache / f"reference-{key[:32]}.npz"
    if parallel.all_processes(path.is_file()):
        statistics, features = _read(path)
    else:
        logging.info("fid: features of %s", images.name)
        collected = fid_features.collect(
            extract,
            fid_features.source_batches(
                source, mesh, experiment.settings.fid.batch_size
            ),
            fid_features.start(network, len(source), keep),
            what="images of the reference",
        )
        statistics, features = collected.statistics(), collected.features()
        processes.on_first(lambda: _write(path, statistics, features))
    return Reference(images.name, images.identity, statistics, features, shown)


def check_count(experiment: Experiment, field: str, count: int) -> None:
    """Raises a UserError where the metrics are not defined on so few images."""
    neighbours, kept = (
        experiment.settings.fid.neighbours,
        experiment.settings.fid.precision_count,
    )
    if 0 < kept <= neighbours:
        raise UserError(
            f"config.fid.precision_count: {kept} images, but precision and recall need "
            f"more than config.fid.neighbours={neighbours}; 0 leaves them out"
        )
    if kept and experiment.settings.fid.kid_subset_size < 2:
        raise UserError("config.fid.kid_subset_size: 1, but at least 2 are needed")
    needed = max(2, neighbours + 1 if kept else 2)
    if count < needed:
        raise UserError(
            f"{field}: {count} image(s), at least {needed} are needed (statistics: 2; "
            f"precision and recall: config.fid.neighbours + 1)"
        )


def _write(path, statistics, features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {} if features is None else {"features": features}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(
            file,
            mu=statistics.mean,
            sigma=statistics.covariance,
            count=statistics.count,
            **kept,
        )


def _read(path):
    statistics = statistics_files.read_statistics(path)
    with np.load(path, allow_pickle=False) as arrays:
        features = arrays.get("features")
    return statistics, features
