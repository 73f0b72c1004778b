"""NVlabs/edm's network pickles, read without running anything that is in them.

Their objects carry the source code of their own class, which NVIDIA's loader executes.
Here every object becomes an inert record of its state, and every tensor a numpy array.
"""

import dataclasses
import io
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from ddae_jax.errors import UserError
from ddae_jax.runtime.safe_pickle import safe_unpickle, unpickle_next

_MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's files before version 1.6
_PROTOCOL = 1001
_DEEPEST = 50  # modules in modules
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclasses.dataclass(frozen=True)
class EDMPickle:
    """What an EDM pickle tells of its network.

    Attributes:
      state: torch name -> array, of all parameters and lasting buffers.
      image_shape: (height, width, channels).
      sigma_data: of the preconditioning.
    """

    state: dict[str, np.ndarray]
    image_shape: tuple[int, int, int]
    sigma_data: float


class _Record:
    """An object of the file: its class's name and its attributes, and no behaviour."""

    def __init__(self, class_name: str = "", state: Mapping | None = None):
        self.class_name = class_name
        self.state = dict(state or {})

    def __setstate__(self, state):
        self.state = dict(state)


class _Container(dict):
    """A mapping of the file; attributes that it may have are dropped."""

    def __setstate__(self, state):
        pass


def read(path: str | pathlib.Path) -> EDMPickle:
    """Reads the EMA network of a pickle.

    Raises:
      UserError: the file asks for anything but arrays, containers and the records of
        its own objects, which is named; it is corrupt; or it holds no network under
        EDM's preconditioning.
    """
    where = str(path)
    content = safe_unpickle(pathlib.Path(path).read_bytes(), where, _BUILDERS)
    network = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(network, _Record):
        raise UserError(f'{where}: not an EDM pickle: it holds no network "ema"')
    if network.class_name != "EDMPrecond":
        raise UserError(
            f"{where}: the network's preconditioning is {network.class_name}; only "
            "EDMPrecond is supported"
        )
    try:
        side = int(network.state["img_resolution"])
        channels = int(network.state["img_channels"])
        sigma_data = float(network.state["sigma_data"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: EDMPrecond without {error}") from error
    try:
        state = _tensors(network, "", set())
    except (AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{where}: damaged: {reason}") from error
    return EDMPickle(state, (side, side, channels), sigma_data)


def _tensors(
    module: _Record, prefix: str, seen: set[int], depth: int = 0
) -> dict[str, np.ndarray]:
    """torch's state_dict of a module; `seen` are the modules passed so far."""
    if id(module) in seen or depth > _DEEPEST:
        raise ValueError("a module that is in two places, or too deep")
    seen.add(id(module))
    found = {}
    passing = module.state.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, array in module.state.get(kind, {}).items():
            if array is not None and name not in passing:
                found[prefix + name] = np.asarray(array)
    for name, child in module.state.get("_modules", {}).items():
        if child is not None:
            found |= _tensors(child, f"{prefix}{name}.", seen, depth + 1)
    return found


def _reconstruct(meta):
    name = meta["class_name"]
    if not isinstance(name, str):
        raise ValueError(f"a class whose name is a {type(name).__name__}")
    return _Record(name, meta["state"])


def _storage(content: bytes) -> np.ndarray:
    """The one storage of a torch file of the old form: four pickles, then the data."""
    where = "a tensor in the pickle"
    stream = io.BytesIO(content)
    if [unpickle_next(stream, where) for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError("a storage that is no torch file")
    if not unpickle_next(stream, where)["little_endian"]:
        raise ValueError("a storage written big-endian")
    types = {("torch", name): dtype for name, dtype in _STORAGES.items()}
    found = {}

    def external(reference):
        kind, dtype, key, _, count, view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise ValueError("a storage of another kind")
        found[key] = dtype, int(count)
        return key

    key = unpickle_next(stream, where, types, external)
    if unpickle_next(stream, where) != [key]:
        raise ValueError("a storage that is not alone")
    dtype, count = found[key]
    if int.from_bytes(stream.read(8), "little") != count:
        raise ValueError("a storage of another length than announced")
    return np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)


def _tensor(storage, offset, size, stride, *_):
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor without a storage")
    storage, offset = np.ascontiguousarray(storage), int(offset)
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise ValueError(f"a tensor of size {size} and stride {stride}")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.size:
        raise ValueError("a tensor that ends after its storage")
    if math.prod(size) > storage.size:  # a stride of 0 repeats
        raise ValueError("a tensor larger than its storage")
    steps = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
    return np.ascontiguousarray(view).reshape(size)


def _parameter(data, *_):
    return data


_BUILDERS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstruct,
    ("dnnlib.util", "EasyDict"): _Container,
    ("collections", "OrderedDict"): _Container,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{
        ("torch.nn.modules.container", name): _Record
        for name in ("ModuleDict", "ModuleList", "Sequential")
    },
}
