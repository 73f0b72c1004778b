"""NVlabs/edm's network pickles, written as its classes write themselves.

Its modules are PyTorch's with more attributes; each is pickled as a call of
`torch_utils.persistence._reconstruct_persistent_obj` on the source code of its class
and all of its attributes: numpy's numbers (`skip_scale`), the arguments that made it,
and what torch.nn.Module keeps. Needs torch.
"""

import contextlib
import pickle
import sys
import types
from collections.abc import Iterator, Mapping

import numpy as np

SOURCE = "raise SystemExit('the source in the file was run')"
_SKIP_SCALE = np.sqrt(0.5)
_RESAMPLED = ("_down", "_up")


@contextlib.contextmanager
def _their_module() -> Iterator:
    """Stands for torch_utils.persistence while a pickle is written."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the file's own reader was called")

    module = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    stand_ins = {"torch_utils": types.ModuleType("torch_utils")}
    stand_ins |= {module.__name__: module}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def _persistent(class_name: str, base: type = object) -> type:
    """A class whose objects are pickled with its source code and their attributes."""

    def reduce(self):
        persistence = sys.modules["torch_utils.persistence"]
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": self.__dict__,
        }
        return persistence._reconstruct_persistent_obj, (meta,), None

    return type(class_name, (base,), {"__reduce__": reduce})


def _object(class_name: str, base: type = object, **attributes):
    made = _persistent(class_name, base)()
    vars(made).update(_init_args=(), _init_kwargs=attributes, **attributes)
    return made


class _Writer:
    """Nested modules of a state dict, by the names of its tensors."""

    def __init__(self):
        import torch

        self.torch = torch

    def module(self, name: str, state: Mapping[str, np.ndarray], facts: Mapping):
        """Module `name`, whose tensors, and those of its children, `state` has."""
        torch = self.torch
        own = {key: array for key, array in state.items() if "." not in key}
        children: dict = {}
        for key, array in state.items():
            first, _, rest = key.partition(".")
            if rest:
                children.setdefault(first, {})[rest] = array
        if name in ("enc", "dec"):
            found = torch.nn.ModuleDict()
        else:
            class_name, attributes = self.described(name, own, children, facts)
            found = _object(class_name, torch.nn.Module, **attributes)
        for key, array in own.items():
            tensor = torch.from_numpy(array.copy())
            if key in ("resample_filter", "freqs"):
                found.register_buffer(key, tensor)
            else:
                found.register_parameter(key, torch.nn.Parameter(tensor))
        if name.rpartition(".")[2].startswith("conv") and "resample_filter" not in own:
            found.register_buffer("resample_filter", None)
        for key, child in children.items():
            found.add_module(key, self.module(key, child, facts))
        return found.eval().requires_grad_(False)

    def described(self, name, own, children, facts):
        """Name of its class, and the attributes that are no tensors."""
        initial = {"init_mode": "xavier_uniform", "init_weight": np.sqrt(0.2)}
        if not name:
            kinds = {"use_fp16": False, "sigma_min": 0, "sigma_max": float("inf")}
            return "EDMPrecond", {**kinds, **facts}
        if name == "model":
            return "SongUNet", {"label_dropout": 0, "embedding_type": "positional"}
        if "conv0" in children:
            scale = {"skip_scale": _SKIP_SCALE, "num_heads": 0, "eps": 1e-6}
            return "UNetBlock", {**scale, "init": initial, "dropout": 0.1}
        weight = own.get("weight")
        if weight is None:
            return "PositionalEmbedding", {"num_channels": 32, "endpoint": True}
        if weight.ndim == 4:
            resampled = {"up": "resample_filter" in own, "fused_resample": False}
            return "Conv2d", {"in_channels": weight.shape[1], **resampled, **initial}
        if weight.ndim == 2:
            return "Linear", {"in_features": weight.shape[1], **initial}
        return "GroupNorm", {"num_groups": np.int64(8), "eps": 1e-6}
