"""NVlabs/edm's network pickles, written as its classes write themselves.

Its modules are PyTorch's with more attributes; each is pickled as a call of
`torch_utils.persistence._reconstruct_persistent_obj` on the source code of its class
and all of its attributes: numpy's numbers (`skip_scale`), the arguments that made it,
and what torch.nn.Module keeps. Writing needs torch.
"""

import pickle
import sys
import types
from collections.abc import Mapping
from unittest import mock

import numpy as np

SOURCE = "raise SystemExit('the source in the file was run')"


def dumps(content: object, protocol: int) -> bytes:
    """Pickles what `network` and `persistent` made."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the file's own reader was called")

    name = "torch_utils.persistence"
    module = types.ModuleType(name)
    _reconstruct_persistent_obj.__module__ = name
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    package = types.ModuleType("torch_utils")
    with mock.patch.dict(sys.modules, {"torch_utils": package, name: module}):
        return pickle.dumps(content, protocol)


def persistent(class_name: str, base: type = object, **attributes) -> object:
    """An object that is pickled with the source of its class and its attributes."""

    def reduce(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": self.__dict__,
        }
        persistence = sys.modules["torch_utils.persistence"]
        return persistence._reconstruct_persistent_obj, (meta,), None

    made = type(class_name, (base,), {"__reduce__": reduce})()
    vars(made).update(_init_args=(), _init_kwargs=dict(attributes), **attributes)
    return made


def network(
    state: Mapping[str, np.ndarray], class_name: str = "EDMPrecond", **attributes
):
    """A network under its preconditioning, with the tensors of a state dict.

    Args:
      attributes: of the preconditioning, beside its modules.
    """
    return _module("", state, class_name, attributes)


def _module(name, state, class_name=None, attributes=None):
    """Module `name`, whose tensors, and those of its children, are in `state`."""
    import torch

    own, children = {}, {}
    for key, array in state.items():
        first, _, rest = key.partition(".")
        if rest:
            children.setdefault(first, {})[rest] = array
        else:
            own[key] = array
    if name in ("enc", "dec"):
        found = torch.nn.ModuleDict()
    else:
        if class_name is None:
            class_name, attributes = _described(own, children)
        found = persistent(class_name, torch.nn.Module, **attributes)
    for key, array in own.items():
        tensor = torch.from_numpy(array.copy())
        if key in ("resample_filter", "freqs"):
            found.register_buffer(key, tensor)
        else:
            found.register_parameter(key, torch.nn.Parameter(tensor))
    if class_name == "Conv2d" and "resample_filter" not in own:
        found.register_buffer("resample_filter", None)
    for key, child in children.items():
        found.add_module(key, _module(key, child))
    return found.eval().requires_grad_(False)


def _described(own, children):
    """Name of a class, and attributes that are no tensors: numpy's numbers, too."""
    initial = {"init_mode": "xavier_uniform", "init_weight": np.sqrt(0.2)}
    if "enc" in children:
        return "SongUNet", {"label_dropout": 0, "resample_filter": [1, 1]}
    if "conv0" in children:
        return "UNetBlock", {"skip_scale": np.sqrt(0.5), "eps": 1e-6, "init": initial}
    if "weight" not in own:
        return "FourierEmbedding", {"scale": np.float32(16)}
    if own["weight"].ndim == 1:
        return "GroupNorm", {"num_groups": np.int64(8), "eps": 1e-6}
    names = {2: "Linear", 4: "Conv2d"}
    return names[own["weight"].ndim], {"in_features": own["weight"].shape[1], **initial}
