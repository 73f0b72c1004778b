"""Parameters in a folder: model.safetensors, under our own "/"-joined names."""

import pathlib
from collections.abc import Mapping

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from ddae_jax.errors import UserError
from ddae_jax.runtime.files import replacing

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
    """Writes a parameter tree, whole or not at all."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    path = pathlib.Path(folder) / FILE
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    with replacing(path) as part:
        safetensors.numpy.save_file(arrays, part, metadata={"format": "ddae_jax"})
        part.chmod(0o644)  # safetensors lets no one else read it


def read_parameters(folder: str | pathlib.Path, shapes: Mapping) -> dict:
    """Reads the parameter tree of a network.

    Args:
      shapes: the network's own tree, of arrays or ShapeDtypeStructs.

    Raises:
      UserError: the file cannot be read, or tensors are missing, surplus or of another
        shape or type; all are listed.
    """
    path = pathlib.Path(folder) / FILE
    found = read_tensors(path)
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
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
