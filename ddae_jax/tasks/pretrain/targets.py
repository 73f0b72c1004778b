"""Features of a network in a folder, computed once, for the term `alignment`."""

import contextlib
import dataclasses
import pathlib

import jax
import numpy as np

from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import evaluation_inputs
from ddae_jax.runtime import compiler, files, log, parallel
from ddae_jax.runtime.identity import of
from ddae_jax.tasks.fid.feature_network import chain_network
from ddae_jax.train.objectives.alignment import Alignment
from ddae_jax.weights import layer_chain

FOLDER = "alignment_features"


def computed(
    experiment: Experiment, name: str, objective: Alignment, source: Source
) -> Alignment:
    """`objective` with the features of its network in a file of the workdir.

    Where `objective.features` is no folder, it is the name of a file already.

    Raises:
      UserError: the folder holds no feature network, or one of other images.
    """
    if not objective.features:
        return objective
    path = pathlib.Path(objective.features).expanduser()
    if not path.is_dir():
        return dataclasses.replace(objective, features=str(path))
    field = f"config.objectives.{name}.features"
    try:
        network = chain_network(layer_chain.read(path))
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    network.check_images(field, source.image_shape)
    identity = of(network=dict(network.facts), images=of_source(source))
    file = experiment.workdir / FOLDER / f"{identity}.npy"
    if not parallel.all_processes(file.exists()):
        _write(experiment, file, network, source)
        parallel.all_processes(True)
    return dataclasses.replace(objective, features=str(file))


def _write(experiment, file, network, source) -> None:
    extract = compiler.jit(lambda params, images: network.apply(params, images)[0])
    batch_size = experiment.settings.train.batch_size
    inputs = evaluation_inputs(source, experiment.mesh, batch_size)
    batches = ((number * batch_size, one) for number, one in enumerate(inputs))
    shape, first = (len(source), network.width), jax.process_index() == 0
    if first:
        file.parent.mkdir(exist_ok=True)
    with files.replacing(file) if first else contextlib.nullcontext() as part:
        array = first and np.lib.format.open_memmap(part, "w+", np.float32, shape)
        title = f"alignment: features of {network.name}"
        for start, (images, *_) in log.told(title, len(source), batches):
            features = parallel.on_host(extract(network.params, images))
            if first:
                array[start : start + batch_size] = features[: len(source) - start]
        if first:
            array.flush()
