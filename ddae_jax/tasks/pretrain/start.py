"""Beginning with the weights of another run: config.train.start_from."""

import dataclasses
import pathlib

import jax
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, opening
from ddae_jax.settings import plain

_FIELD = "config.train.start_from"
# What may differ: it is new, or changes neither parameters nor what they compute.
_FREE = (
    "self_condition.",
    "dropout",
    "drop_path",
    "remat",
    "attention_implementation",
)
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to begin with, once: then they are let go.

    Attributes:
      folder: that they come from.
      step: of the run there.
      params: "/"-joined path -> array, on the mesh.
      new: paths of the parameters that start at their initial values.
    """

    folder: str
    step: int
    params: dict[str, jax.Array]
    new: tuple[str, ...]

    @property
    def facts(self) -> dict:
        """For data.json."""
        return {"folder": self.folder, "step": self.step, "new": list(self.new)}

    def __call__(self, drawn: dict) -> dict:
        """Initial parameters -> those to begin with, on the same devices.

        The trainer keeps this object: it must not keep a copy of the weights.
        """
        flat = flatten_dict(drawn, sep="/")
        while self.params:
            path, array = self.params.popitem()
            flat[path] = jax.device_put(array, flat[path].sharding)
        return unflatten_dict(flat, sep="/")


def find(experiment: Experiment, shape: tuple[int, ...]) -> Start:
    """Reads the EMA weights of `train.start_from`, and compares them with the network.

    Args:
      shape: (height, width, channels) of the training images.

    Raises:
      UserError: no run or exported weights are there, or they are of another network,
        process or images.
    """
    folder = pathlib.Path(experiment.settings.train.start_from).expanduser()
    if folder.resolve() == experiment.workdir.resolve():
        raise UserError(f"{_FIELD}: {folder} is the workdir itself")
    try:
        step = experiment.settings.train.start_step
        other, found = opening.open_folder(folder, step)
    except UserError as error:
        # The other run's checkpoint is named by a field of ours.
        told = str(error).replace("config.checkpoint.step", "train.start_step")
        raise UserError(f"{_FIELD}: {told}") from error
    _check_described(experiment, other, found, shape)
    flat = flatten_dict(found.params, sep="/")
    wanted = flatten_dict(experiment.denoiser.parameter_shapes(shape), sep="/")
    left = [path for path in flat if path not in wanted]
    if left:
        raise UserError(
            f"{_FIELD}: {folder} has parameters that this network has not: "
            f"{_listed(left)}"
        )
    for path, leaf in flat.items():
        if leaf.shape != wanted[path].shape:
            raise UserError(
                f"{_FIELD}: {path} of {folder} has shape {leaf.shape}, this network's "
                f"{wanted[path].shape}"
            )
    new = tuple(path for path in wanted if path not in flat)
    logging.info(
        "start_from: EMA weights of step %d of %s; new: %s",
        found.step,
        folder,
        _listed(new) or "nothing",
    )
    return Start(str(folder), found.step, flat, new)


def _check_described(experiment, other, found, shape) -> None:
    """Raises a UserError where the other run's settings are those of another model."""
    ours, theirs = experiment.settings, other.settings
    for section in ("network", "process"):
        here = plain.flatten(plain.of_chosen(ours, section))
        there = plain.flatten(plain.of_chosen(theirs, section))
        for field, value in here.items():
            free = field.startswith(_FREE) or field == "image_channels"
            if not free and there.get(field, value) != value:
                raise UserError(
                    f"{_FIELD}: config.{section}.{field} is {value}, of "
                    f"{ours.train.start_from} {there[field]}"
                )
    _check_source(experiment, found)
    if tuple(found.image_shape) != tuple(shape):
        raise UserError(
            f"{_FIELD}: the images are {tuple(shape)}, those of "
            f"{ours.train.start_from} {tuple(found.image_shape)}"
        )


def _check_source(experiment, found) -> None:
    """Raises a UserError where weights of self-conditioning would get another source.

    Its matrix may have the same shape there.
    """
    here, there = experiment.denoiser.network, found.denoiser.network
    sources = here.self_condition_source(), there.self_condition_source()
    summaries = here.self_condition.summary, there.self_condition.summary
    for field, (ours, theirs) in (("tap", sources), ("summary", summaries)):
        if all(sources) and ours != theirs:
            raise UserError(
                f"{_FIELD}: config.network.self_condition.{field} is {ours}, of "
                f"{experiment.settings.train.start_from} {theirs}"
            )


def _listed(paths) -> str:
    shown = ", ".join(paths[:_SHOWN])
    return shown + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
