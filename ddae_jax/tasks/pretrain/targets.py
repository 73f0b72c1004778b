"""Features of a network in a folder, computed once, for terms that align with them."""

import contextlib
import pathlib
from collections.abc import Mapping

import numpy as np

from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import evaluation_inputs
from ddae_jax.runtime import files, log, parallel, processes
from ddae_jax.runtime.identity import of
from ddae_jax.weights import layer_chain

FOLDER = "alignment_features"
BESIDE = "beside.json"
_SAMPLED = 64


def computed(
    experiment: Experiment, source: Source, folder: pathlib.Path
) -> pathlib.Path:
    """The file in the workdir with the features of a network for every image.

    Raises:
      UserError: the folder holds no feature network, or one of other images.
    """
    # Few runs have such targets: the others start sooner without these modules.
    from ddae_jax.tasks.fid.feature_network import chain_network

    try:
        network = chain_network(layer_chain.read(folder))
    except UserError as error:
        raise UserError(f"features: {error}") from error
    network.check_images("features", source.image_shape)
    identity = of(network=dict(network.facts), images=of_source(source))
    file = experiment.workdir / FOLDER / f"{identity}.npy"
    if not processes.on_first(file.exists):
        _write(experiment, file, network, source)
    return file


def _write(experiment, file, network, source) -> None:
    from ddae_jax.tasks.fid.collect import extractor

    extract = extractor(network, experiment.mesh)
    batch_size = experiment.settings.train.batch_size
    inputs = evaluation_inputs(source, experiment.mesh, batch_size)
    batches = ((number * batch_size, one) for number, one in enumerate(inputs))
    shape, array = (len(source), network.width), None
    with contextlib.ExitStack() as unfinished:

        def begin():
            nonlocal array
            file.parent.mkdir(exist_ok=True)
            part = unfinished.enter_context(files.replacing(file))
            array = np.lib.format.open_memmap(part, "w+", np.float32, shape)

        def finish():
            array.flush()
            unfinished.close()

        processes.on_first(begin)
        title = f"alignment: features of {network.name}"
        for start, (images, *_) in log.told(title, len(source), batches):
            features = parallel.on_host(extract(images).features)
            if array is not None:
                array[start : start + batch_size] = features[: len(source) - start]
        processes.on_first(finish)


def check_same(
    experiment: Experiment, beside: Mapping[str, np.ndarray], first: bool
) -> None:
    """Notes what lies beside the images; a run that goes on must have the same.

    Args:
      beside: "OBJECTIVE/NAME" -> array in the order of the set.
      first: whether the run begins; else it has a checkpoint.

    Raises:
      UserError: an array is another one than the run was trained with.
    """
    now = {name: _identity(array) for name, array in beside.items()}
    processes.on_first(lambda: _check_known(experiment.workdir, now, first))


def _check_known(workdir: pathlib.Path, now: dict[str, str], first: bool) -> None:
    known = files.read_json(workdir / BESIDE) or {}
    for name, identity in now.items():
        if not first and known.get(name, identity) != identity:
            field = name.replace("/", ".")
            raise UserError(
                f"config.objectives.{field}: not what {workdir} was trained with"
            )
    if now and (first or now != known):
        files.write_json(workdir / BESIDE, now)


def _identity(array: np.ndarray) -> str:
    """Of its form and of some rows: all of them may be far too much to read."""
    rows = np.linspace(0, len(array) - 1, min(len(array), _SAMPLED)).astype(int)
    return of(shape=array.shape, kind=str(array.dtype), rows=np.asarray(array[rows]))
