"""The folder of a denoiser: a workdir, or what --task=export wrote."""

import json
import math
import pathlib

import jax

from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.runtime import parallel
from ddae_jax.settings import config_files, saved, schema
from ddae_jax.settings.root import Settings
from ddae_jax.weights import folder as weights_folder


def open_folder(
    path: pathlib.Path, step: int | None = None
) -> tuple[Experiment, Trained]:
    """Reads the settings and the EMA weights of a denoiser.

    The weights are shared among as many devices as config.mesh of the workdir
    says, where the number of devices allows it.

    Args:
      step: which checkpoint of a workdir; None is the one that its config names, by
        default the latest.

    Raises:
      UserError: there is no such folder, or no such checkpoint in it; it is neither of
        the two; or its files do not go together.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    exported = (path / weights_folder.FILE).is_file()
    if not exported and not (path / "checkpoints").is_dir():
        raise UserError(
            f"{path}: neither an exported folder ({weights_folder.FILE}) nor the "
            "workdir of a run (checkpoints)"
        )
    config_files.import_plugins()
    settings, image_shape = _description(path)
    # The run may have had more devices than are at hand.
    tensor = math.gcd(settings.mesh.tensor, jax.local_device_count())
    fsdp = math.gcd(settings.mesh.fsdp, jax.device_count() // tensor)
    experiment = Experiment(settings, path).changed("mesh", fsdp=fsdp, tensor=tensor)
    if not exported:
        return experiment, experiment.trained(step)
    shapes = experiment.denoiser.parameter_shapes(image_shape)
    params = weights_folder.read_parameters(path, shapes)
    rules = experiment.denoiser.network.partition_rules
    placed = parallel.place_state(experiment.mesh, params, rules)
    step = experiment.read_json(DATA).get("step", 0)
    return experiment, experiment.with_weights(placed, step)


def _description(path: pathlib.Path) -> tuple[Settings, tuple[int, int, int]]:
    try:
        config = saved.read(path)
        if config is None:
            raise UserError(f"{path}: config.json is missing")
        image_shape = tuple(json.loads((path / DATA).read_text())["image_shape"])
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: data.json is missing") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, json.JSONDecodeError):
            raise UserError(f"{path}: data.json is not JSON: {error}") from error
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path}: config.json or data.json are not of a denoiser: {reason}"
        ) from error
    return schema.build(config), image_shape
