"""Feature networks of users: a folder with network.json and model.safetensors."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.models import layer_chain
from ddae_jax.models.layer_chain import LayerChain
from ddae_jax.runtime.files import replacing
from ddae_jax.weights import folder

DESCRIPTION = "network.json"
FORMAT = "ddae_jax feature network 1"


@dataclasses.dataclass(frozen=True)
class ChainFile:
    """What a folder holds.

    Attributes:
      chain: the network.
      tensors: its parameters, float32.
      width: number of its features.
      name: said beside every number.
      about: anything else that the writer wanted to be known.
      sha256: of the tensors' file and the description.
    """

    chain: LayerChain
    tensors: dict[str, np.ndarray]
    width: int
    name: str
    about: dict[str, Any]
    sha256: str


def write(
    path: pathlib.Path,
    chain: LayerChain,
    tensors: Mapping[str, np.ndarray],
    name: str,
    about: Mapping[str, Any],
) -> None:
    """Writes the folder; the description comes last, so that it stands for all."""
    path.mkdir(parents=True, exist_ok=True)
    (path / DESCRIPTION).unlink(missing_ok=True)
    tree = {key: np.asarray(tensor, np.float32) for key, tensor in tensors.items()}
    folder.write_parameters(path, tree)
    content = {
        "format": FORMAT,
        "name": name,
        "image_shape": list(chain.image_shape),
        "mean": chain.mean,
        "standard_deviation": chain.standard_deviation,
        "layers": layer_chain.describe(chain.layers),
        "about": dict(about),
    }
    with replacing(path / DESCRIPTION) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def read(path: pathlib.Path) -> ChainFile:
    """Reads and checks the folder.

    Raises:
      UserError: a file is missing or damaged, or layers and tensors do not fit.
    """
    try:
        text = (path / DESCRIPTION).read_text()
        content = json.loads(text)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: no feature network ({reason}); see docs/feature_networks.md"
        ) from error
    tensors = folder.read_tensors(path / folder.FILE)
    try:
        chain, name, about = _parse(content)
        width = chain.width(tensors)
    except UserError as error:
        raise UserError(f"{path / DESCRIPTION}: {error}") from error
    for key, tensor in tensors.items():
        if tensor.dtype.kind != "f" or not np.isfinite(tensor.astype("f")).all():
            raise UserError(f"{path / folder.FILE}: {key} has values not finite")
    digest = hashlib.sha256(text.encode())
    digest.update((path / folder.FILE).read_bytes())
    tensors = {key: tensor.astype(np.float32) for key, tensor in tensors.items()}
    return ChainFile(chain, tensors, width, name, about, digest.hexdigest())


def _parse(content) -> tuple[LayerChain, str, dict]:
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"format is not {FORMAT!r}")
    shape = content.get("image_shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(isinstance(size, int) and size > 0 for size in shape)
    ):
        raise UserError("image_shape must be [height, width, channels]")
    # Version 0.1 wrote "deviation".
    spread = content.get("standard_deviation", content.get("deviation", 127.5))
    numbers = [content.get("mean", 127.5), spread]
    if not all(isinstance(x, int | float) for x in numbers) or numbers[1] <= 0:
        raise UserError("mean must be a number, standard_deviation a positive one")
    layers = layer_chain.parse(content.get("layers"))
    chain = LayerChain(layers, tuple(shape), *map(float, numbers))
    return chain, str(content.get("name", "unnamed")), dict(content.get("about") or {})
