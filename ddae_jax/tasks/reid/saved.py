"""What a training keeps in its folder: its settings and its weights.

OUTPUT/settings.json        what it was trained with
OUTPUT/model.safetensors    first/params/..., first/statistics/..., of each network
OUTPUT/metrics.jsonl, events, checkpoints
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ddae_jax.data.identity import of_source
from ddae_jax.data.person_images import PersonImages
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import parallel, processes
from ddae_jax.settings import plain
from ddae_jax.tasks.reid.opening import Opened
from ddae_jax.tasks.reid.training import ReidState
from ddae_jax.train import folders
from ddae_jax.weights import folder as weights_folder

# Of the section: which function the network is, and what its training came to beside.
_OF_THE_NETWORK = (
    "backbone",
    "resnet",
    "tap",
    "noise_level",
    "frozen",
    "projection",
    "stripe_features",
    "pooling",
    "mutual",
)
_OF_THE_TRAINING = (
    "more_training",
    "from_scratch",
    "persons",
    "images_each",
    "repeat_images",
    "drop_single",
    "margin",
    "local_weight",
    "identity_weight",
    "label_smoothing",
    "mutual_identity_weight",
    "mutual_distance_weight",
    "normalise",
    "epochs",
    "decay_from",
    "decay_to",
    "learning_rate",
    "weight_decay",
    "flip",
    "crop",
    "erase",
)


def settings(experiment: Experiment, opened: Opened, train: PersonImages) -> dict:
    """All that decides what the training comes to, JSON-able."""
    section = plain.of_section(experiment.settings.reid)
    content = {
        **{f"reid.{n}": section[n] for n in (*_OF_THE_NETWORK, *_OF_THE_TRAINING)},
        **opened.determined_by,
        "seed": experiment.settings.seed,
        "dtype": experiment.settings.dtype,
        "images": of_source(train.source),
        "image_shape": train.source.image_shape,
        "train_images": len(train),
        "train_persons": len(train.source.class_names),
        "train_name": train.source.name,
    }
    return json.loads(json.dumps(content))


def claim(folder: pathlib.Path, wanted: Mapping[str, Any]) -> None:
    """Makes `folder` the one of a training with these settings.

    One that diverged makes way for one with others.

    Raises:
      UserError: another training has it.
    """
    found = folders.find_settings(folder)
    if found is not None and folders.has_diverged(folder) and found != wanted:
        folders.clear(folder)
        found = None
    if found is None:
        folders.write_settings(folder, wanted)
        return
    for name, value in wanted.items():
        if found.get(name) == value:
            continue
        if name == "images":
            raise UserError(
                f"config.data: {folder} was trained on other images; name another "
                "--config.reid.output, or delete the folder"
            )
        raise UserError(
            f"config.{name}: {folder} was trained with {found.get(name)!r}, not "
            f"{value!r}; name another --config.reid.output, or delete the folder"
        )


def write(folder: pathlib.Path, state: ReidState) -> None:
    """Writes the weights, whole or not at all."""
    networks = {
        name: {"params": params, "statistics": state.statistics[name]}
        for name, params in state.params.items()
    }
    networks = parallel.on_host(networks)
    processes.on_first(lambda: weights_folder.write_parameters(folder, networks))


def find(experiment: Experiment) -> dict:
    """Settings of the training that config.reid.model names.

    Raises:
      UserError: there is none, or it did not end.
    """
    name = experiment.settings.reid.model
    folder = experiment.workdir / name
    found = folders.find_settings(folder)
    if found is None:
        raise UserError(
            f"config.reid.model: {folder}: nothing was trained there; run --task=reid "
            f"--config.reid.output={name} first"
        )
    if not processes.on_first((folder / weights_folder.FILE).is_file):
        raise UserError(
            f"config.reid.model: {folder}: its training did not end; run it again to "
            "go on"
        )
    return found


def check_network(experiment: Experiment, found: Mapping[str, Any], wanted) -> None:
    """Raises a UserError where the config describes another network.

    Args:
      found: settings of the training, as `find` gives them.
      wanted: `Opened.determined_by` of the config.
    """
    section = plain.of_section(experiment.settings.reid)
    ours = {f"reid.{name}": section[name] for name in _OF_THE_NETWORK} | dict(wanted)
    for name, value in json.loads(json.dumps(ours)).items():
        if found.get(name) != value:
            raise UserError(
                f"config.{name}: {experiment.settings.reid.model} was trained with "
                f"{found.get(name)!r}, not {value!r}"
            )


def read(folder: pathlib.Path, state: ReidState, mesh) -> tuple[dict, dict]:
    """The first network's parameters and statistics, on the mesh.

    Args:
      state: its shapes.

    Raises:
      UserError: the file is damaged or of another network.
    """
    shapes = {
        name: {"params": params, "statistics": state.statistics[name]}
        for name, params in state.params.items()
    }
    found = weights_folder.read_parameters(folder, shapes)["first"]
    placed = parallel.place_state(mesh, found)
    return placed["params"], placed["statistics"]
