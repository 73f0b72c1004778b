"""What fine-tuning keeps in its folder: its settings and its weights."""

import dataclasses
import json
import pathlib
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.cell import TapAtTime
from ddae_jax.experiment.trained import Trained
from ddae_jax.runtime import parallel, processes
from ddae_jax.settings import plain
from ddae_jax.tasks.finetune import classifier, depths
from ddae_jax.train import folders
from ddae_jax.weights import folder as weights_folder

FILE = folders.SETTINGS
_NOT_OF_THE_RESULT = ("output", "steps_per_dispatch")


def check_name(output: str) -> None:
    """Raises a UserError where `output` cannot name a result beside the others."""
    if not re.fullmatch(r"finetune[\w-]*", output):
        raise UserError(
            f"config.finetune.output: {output!r} must begin with finetune and go on "
            "with letters, digits, - or _"
        )


def settings(
    experiment: Experiment, trained: Trained, cell: TapAtTime, train: Source
) -> dict:
    """All that decides what fine-tuning comes to, JSON-able."""
    weights = None
    if not experiment.settings.finetune.from_scratch:
        # A pre-training that began anew has other weights at the same step.
        weights = trained.identity((cell.tap,))
    ours = {
        f"finetune.{name}": value
        for name, value in plain.of_section(experiment.settings.finetune).items()
        if name not in _NOT_OF_THE_RESULT
    }
    content = {
        **ours,
        "tap": cell.tap,
        "time": cell.time.time,
        "step": trained.step,
        "weights": weights,
        "seed": experiment.settings.seed,
        "dtype": experiment.settings.dtype,
        "images": of_source(train),
        "image_shape": train.image_shape,
        "train_images": len(train),
        "class_names": train.class_names,
        "network": plain.of_chosen(experiment.settings, "network"),
        "process": plain.of_chosen(experiment.settings, "process"),
        "probe.flip": experiment.settings.probe.flip,
        "probe.crop": experiment.settings.probe.crop,
    }
    return json.loads(json.dumps(content))


def claim(folder: pathlib.Path, wanted: dict) -> None:
    """Makes `folder` the one of a run with these settings.

    A run that diverged makes way for one with other settings.

    Raises:
      UserError: another run has it.
    """
    found = folders.find_settings(folder)
    if found is None:
        if processes.on_first((folder / "checkpoints").is_dir):
            raise UserError(
                f"{folder}: has checkpoints but no {FILE}; delete the folder, or name "
                "another --config.finetune.output"
            )
        folders.write_settings(folder, wanted)
        return
    different = [key for key in wanted if found.get(key) != wanted[key]]
    if not different:
        return
    if folders.has_diverged(folder):
        folders.clear(folder)
        folders.write_settings(folder, wanted)
        return
    key = different[0]
    if key == "images":
        raise UserError(
            f"{folder} is of a run on other training images; name another "
            "--config.finetune.output, or delete the folder"
        )
    raise UserError(
        f"{folder} is of a run with {key}={found.get(key)!r}, not {wanted[key]!r}; "
        "name another --config.finetune.output, or delete the folder"
    )


def write(folder: pathlib.Path, params: dict) -> None:
    """Writes the weights of a `Classifier`, whole or not at all."""
    processes.on_first(lambda: weights_folder.write_parameters(folder, params))


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A network that was fine-tuned as a classifier.

    Attributes:
      trained: the denoiser with these weights, zeros after the tap.
      head: {"kernel", "bias"} for `heads.linear.logits`, on the host.
      tap: its name.
      time: the process's own.
      image_shape: (height, width, channels) of the images that it was trained on.
      class_names: in the order of the logits.
    """

    trained: Trained
    head: dict[str, Float[np.ndarray, "..."]]
    tap: str
    time: float
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]


def load_finetuned(experiment: Experiment, output: str = "finetune") -> Finetuned:
    """Reads a fine-tuned classifier back, sharded as the network is trained.

    Args:
      output: the config.finetune.output that it was trained under.

    Raises:
      UserError: nothing was fine-tuned under that name, or not to the end.
    """
    check_name(output)
    folder = experiment.workdir / output
    try:
        saved = experiment.read_json(f"{output}/{FILE}")
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: nothing is fine-tuned there; run --task=finetune first"
        ) from error
    if not (folder / weights_folder.FILE).is_file():
        raise UserError(
            f"{folder}: fine-tuning did not end; run --task=finetune again to go on"
        )
    denoiser = experiment.denoiser
    shape = experiment.image_shape
    tap, names = saved["tap"], tuple(saved["class_names"])
    shapes = depths.parameter_shapes(denoiser, shape)
    used = denoiser.used_parameters(shape, tap)
    wanted = {f"network/{path}": shapes[path] for path in used}
    width = classifier.Classifier(denoiser, tap, saved["time"]).feature_width(shape)
    for leaf, size in (("kernel", (width, len(names))), ("bias", (len(names),))):
        wanted[f"head/{leaf}"] = jax.ShapeDtypeStruct(size, jnp.float32)
    tree = flax.traverse_util.unflatten_dict(wanted, sep="/")
    params = weights_folder.read_parameters(folder, tree)
    network = classifier.complete(denoiser, params["network"], shape, np.zeros)
    placed = parallel.place_state(
        experiment.mesh, network, denoiser.network.partition_rules
    )
    return Finetuned(
        experiment.with_weights(placed, saved["step"]),
        params["head"],
        tap,
        saved["time"],
        tuple(saved["image_shape"]),
        names,
    )
