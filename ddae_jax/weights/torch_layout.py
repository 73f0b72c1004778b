"""Torch state dicts <-> flax parameter trees, by a table of names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from einops import EinopsError, rearrange

from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array of torch's layout becomes ours, and back."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda array: array, lambda array: array),
    "linear": Layout(
        lambda array: rearrange(array, "outputs inputs -> inputs outputs"),
        lambda array: rearrange(array, "inputs outputs -> outputs inputs"),
    ),
    "conv": Layout(
        lambda array: rearrange(
            array, "outputs inputs row column -> row column inputs outputs"
        ),
        lambda array: rearrange(
            array, "row column inputs outputs -> outputs inputs row column"
        ),
    ),
    # torch: a 1x1 convolution; flax: a linear map
    "conv_as_linear": Layout(
        lambda array: rearrange(array, "outputs inputs 1 1 -> inputs outputs"),
        lambda array: rearrange(array, "inputs outputs -> outputs inputs 1 1"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one torch tensor lives in our parameter tree.

    Attributes:
      path: keys below "params".
      layout: a key of LAYOUTS.
    """

    path: tuple[str, ...]
    layout: str = "same"


@dataclasses.dataclass(frozen=True)
class PublishedClass:
    """The published PyTorch class that a state dict is for.

    Attributes:
      code: repository and file.
      name: of the class.
      arguments: of its constructor.
      within: the call that makes the whole module of it, where the state dict is that
        of a module around the network.
    """

    code: str
    name: str
    arguments: dict[str, Any]
    within: str = "{}"

    def __str__(self) -> str:
        arguments = (f"{key}={value!r}" for key, value in self.arguments.items())
        return self.within.format(f"{self.name}({', '.join(arguments)})")


def layer(torch_name: str, path: tuple[str, ...], layout: str) -> dict[str, Entry]:
    """Entries of a convolution or linear map: weight (as kernel) and bias."""
    return {
        f"{torch_name}.weight": Entry((*path, "kernel"), layout),
        f"{torch_name}.bias": Entry((*path, "bias")),
    }


def norm(torch_name: str, path: tuple[str, ...]) -> dict[str, Entry]:
    """Entries of a normalisation layer: weight (as scale) and bias."""
    return {
        f"{torch_name}.weight": Entry((*path, "scale")),
        f"{torch_name}.bias": Entry((*path, "bias")),
    }


def from_torch(
    state: Mapping[str, np.ndarray], names: Mapping[str, Entry], shapes
) -> dict:
    """Returns the parameter tree that the torch tensors in `state` make.

    Args:
      state: torch name -> array in torch's layout.
      names: torch name -> entry, for every tensor of the network.
      shapes: the network's own parameter tree, of arrays or ShapeDtypeStructs.

    Raises:
      UserError: a tensor is missing, surplus or of another shape; all are listed.
    """
    wanted = flax.traverse_util.flatten_dict(shapes)
    uncovered = set(wanted) - {entry.path for entry in names.values()}
    if uncovered:
        raise ValueError(f"the name table lacks parameters {sorted(uncovered)}")
    missing = [name for name in names if name not in state]
    surplus = [name for name in state if name not in names]
    params, misshapen = {}, []
    for name, entry in names.items():
        if name in state:
            array = np.asarray(state[name])
            shape = tuple(wanted[entry.path].shape)
            try:
                ours = LAYOUTS[entry.layout].from_torch(array)
            except EinopsError:  # other axes than the layout's
                ours = array
            if ours.shape != shape:
                misshapen.append(f"{name} {array.shape}, not like our {shape}")
            params[entry.path] = np.ascontiguousarray(ours, np.float32)
    problems = [
        f"{kind}: {', '.join(found)}"
        for kind, found in [
            ("missing", missing),
            ("surplus", surplus),
            ("misshapen", misshapen),
        ]
        if found
    ]
    if problems:
        raise UserError("tensors do not fit the network; " + "; ".join(problems))
    return flax.traverse_util.unflatten_dict(params)


def to_torch(params: dict, names: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """Returns torch name -> array in torch's layout: the inverse of `from_torch`.

    Raises:
      UserError: a parameter has no name there; a file without it would be another
        network.
    """
    flat = flax.traverse_util.flatten_dict(jax.device_get(params))
    nameless = flat.keys() - {entry.path for entry in names.values()}
    if nameless:
        raise UserError(
            "the published code has no such parameters: "
            + ", ".join(sorted(map("/".join, nameless)))[:300]
        )
    return {
        name: np.ascontiguousarray(
            LAYOUTS[entry.layout].to_torch(np.asarray(flat[entry.path]))
        )
        for name, entry in names.items()
    }
