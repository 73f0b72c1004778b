"""Parameters in a folder: model.safetensors, under our own names or the published.

Our own names are the paths in the parameter tree, joined by "/".
"""

import pathlib
from collections.abc import Mapping

import flax.linen as nn
import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from ddae_jax.errors import UserError
from ddae_jax.runtime.files import replacing
from ddae_jax.weights import published
from ddae_jax.weights.families import Shape

FILE = "model.safetensors"


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file, float16 and bfloat16 as they are.

    Raises:
      UserError: the file is corrupt or truncated.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path}: missing, corrupt or truncated safetensors file ({reason})"
        ) from error


def write_parameters(folder: str | pathlib.Path, params: Mapping) -> None:
    """Writes a parameter tree under our own names, whole or not at all."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    _write(pathlib.Path(folder), flat, "ddae_jax")


def write_published(
    folder: str | pathlib.Path, network: nn.Module, params: Mapping, image_shape: Shape
) -> None:
    """Writes the state dict of the published PyTorch code, whole or not at all.

    Raises:
      UserError: the network is of no published family.
    """
    state = published.to_state(network, params, image_shape)
    _write(pathlib.Path(folder), state, "pt")


def _write(folder: pathlib.Path, arrays: Mapping[str, np.ndarray], form: str) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(folder / FILE) as part:
        safetensors.numpy.save_file(arrays, part, metadata={"format": form})
        part.chmod(0o644)  # safetensors lets no one else read it


def has_own_names(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors are named by their paths in our parameter tree."""
    return any("/" in name for name in tensors)


def read_parameters(folder: str | pathlib.Path, shapes: Mapping) -> dict:
    """Reads the parameter tree of a network, under names of either kind.

    Args:
      shapes: the network's own tree, of arrays or ShapeDtypeStructs.

    Raises:
      UserError: the file cannot be read, or tensors are missing, surplus or of another
        shape or type; all are listed.
    """
    path = pathlib.Path(folder) / FILE
    found = read_tensors(path)
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    if not has_own_names(found):
        try:
            return published.to_parameters_of_shapes(found, shapes)
        except UserError as error:
            raise UserError(f"{path} does not fit its config.json; {error}") from error
    problems = {
        "missing": [name for name in wanted if name not in found],
        "surplus": [name for name in found if name not in wanted],
        "misshapen": [
            f"{name} {array.dtype}{array.shape}, not {leaf.dtype}{tuple(leaf.shape)}"
            for name, array in found.items()
            if (leaf := wanted.get(name)) is not None
            and (array.shape != tuple(leaf.shape) or array.dtype != leaf.dtype)
        ],
    }
    if any(problems.values()):
        lists = (
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise UserError(f"{path} does not fit its config.json; {'; '.join(lists)}")
    return flax.traverse_util.unflatten_dict(found, sep="/")
