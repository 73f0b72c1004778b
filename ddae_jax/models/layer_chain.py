"""Small feature networks as a chain of layers that a JSON file can describe.

The format is for networks that users bring as files (docs/feature_networks.md): a file
names layers of a fixed list and holds numbers, so reading one runs nothing of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from ddae_jax.errors import UserError

# As in Inception: reduced precision moves the distance in the second decimal.
PRECISION = jax.lax.Precision.HIGHEST

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
_FIELDS = {
    "conv": ("name", "stride", "padding"),
    "dense": ("name",),
    "scale": ("name",),
    "max_pool": ("size", "stride", "padding"),
    "average_pool": ("size", "stride", "padding"),
    "mean": (),
    "flatten": (),
    "residual": ("layers", "shortcut"),
    **{name: () for name in _ACTIVATIONS},
}
KINDS = tuple(_FIELDS)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer; which fields count depends on the kind.

    Attributes:
      kind: one of KINDS.
      name: of the tensors: conv and dense have NAME/kernel and, if there, NAME/bias;
        scale multiplies channels by NAME/scale and adds NAME/bias.
      stride: of a convolution or a pool, in both directions.
      padding: "same" (as many zeros before as after, (kernel - 1) / 2, as in PyTorch)
        or "valid".
      size: of a pool, in both directions.
      layers: residual: the layers whose output is added ...
      shortcut: ... to the output of these; none of them: to the input.
    """

    kind: str
    name: str = ""
    stride: int = 1
    padding: str = "same"
    size: int = 2
    layers: tuple["Layer", ...] = ()
    shortcut: tuple["Layer", ...] = ()


@dataclasses.dataclass(frozen=True)
class LayerChain:
    """A network from images to one vector of features.

    Attributes:
      layers: from first to last.
      image_shape: (height, width, channels) of the images that it takes.
      mean: subtracted from pixels in [0, 255].
      standard_deviation: by which the difference is divided.
    """

    layers: tuple[Layer, ...]
    image_shape: tuple[int, int, int]
    mean: float = 127.5
    standard_deviation: float = 127.5

    def __call__(
        self,
        tensors: Mapping[str, Array | np.ndarray],
        images: UInt8[Array, "batch height width channels"],
    ) -> Float[Array, "batch features"]:
        """Returns the features of images in [0, 255]."""
        x = (images.astype(jnp.float32) - self.mean) / self.standard_deviation
        return _apply(self.layers, tensors, x)

    def width(self, tensors: Mapping[str, Array | np.ndarray]) -> int:
        """Number of features.

        Raises:
          UserError: a tensor is missing or does not fit the layer before, or what comes
            out is not one vector per image.
        """
        shapes = {
            name: jax.ShapeDtypeStruct(tensor.shape, jnp.float32)
            for name, tensor in tensors.items()
        }
        images = jax.ShapeDtypeStruct((2, *self.image_shape), jnp.uint8)
        try:
            output = jax.eval_shape(self, shapes, images)
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # of jax, about shapes
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"layers and tensors do not fit: {reason}") from error
        if output.ndim != 2:
            raise UserError(
                f"the last layer gives {output.shape[1:]} per image, not one vector; "
                "end with mean or flatten"
            )
        return output.shape[1]


def parse(described: object) -> tuple[Layer, ...]:
    """Reads the "layers" of a JSON description.

    Raises:
      UserError: an unknown kind or field, or a value out of its range.
    """
    if not isinstance(described, Sequence) or isinstance(described, str):
        raise UserError("layers: a list of layers is needed")
    return tuple(_parse_one(entry) for entry in described)


def describe(layers: Sequence[Layer]) -> list[dict]:
    """The inverse of `parse`."""

    def value(layer, field):
        given = getattr(layer, field)
        return describe(given) if isinstance(given, tuple) else given

    return [
        {"kind": layer.kind}
        | {field: value(layer, field) for field in _FIELDS[layer.kind]}
        for layer in layers
    ]


def _parse_one(entry) -> Layer:
    if not isinstance(entry, Mapping) or entry.get("kind") not in _FIELDS:
        given = entry.get("kind") if isinstance(entry, Mapping) else entry
        raise UserError(f"layers: unknown kind {given!r}; known: {', '.join(KINDS)}")
    kind, fields = entry["kind"], _FIELDS[entry["kind"]]
    for field in entry:
        if field != "kind" and field not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(f"layers: {kind} has no field {field!r}; known: {known}")
    values = dict(entry)
    for field in ("layers", "shortcut"):
        if field in values:
            values[field] = parse(values[field])
    layer = Layer(**values)
    if "name" in fields and (not isinstance(layer.name, str) or not layer.name):
        raise UserError(f"layers: a {kind} needs the name of its tensors")
    for field in ("stride", "size"):
        if not isinstance(getattr(layer, field), int) or getattr(layer, field) < 1:
            raise UserError(f"layers: {kind}: {field} must be 1 or more")
    if layer.padding not in ("same", "valid"):
        raise UserError(f"layers: {kind}: padding must be same or valid")
    return layer


def _apply(layers, tensors, x):
    for layer in layers:
        x = _apply_one(layer, tensors, x)
    return x


def _apply_one(layer, tensors, x):
    if layer.kind in _ACTIVATIONS:
        return _ACTIVATIONS[layer.kind](x)
    if layer.kind == "residual":
        shortcut = _apply(layer.shortcut, tensors, x)
        return shortcut + _apply(layer.layers, tensors, x)
    if layer.kind == "flatten":
        return rearrange(x, "b ... -> b (...)")
    if layer.kind == "mean":
        return x.mean(axis=tuple(range(1, x.ndim - 1)))
    if layer.kind == "scale":
        return x * _tensor(tensors, layer, "scale") + _tensor(tensors, layer, "bias")
    if layer.kind in ("max_pool", "average_pool"):
        return _pool(layer, x)
    kernel = _tensor(tensors, layer, "kernel")
    if layer.kind == "dense":
        x = jnp.dot(x, kernel, precision=PRECISION)
    else:
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (layer.stride, layer.stride),
            _padding(layer, kernel.shape[:2]),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
    return x + tensors[f"{layer.name}/bias"] if f"{layer.name}/bias" in tensors else x


def _tensor(tensors, layer, part):
    name = f"{layer.name}/{part}"
    if name not in tensors:
        raise UserError(f"{layer.kind} {layer.name!r}: there is no tensor {name}")
    return tensors[name]


def _padding(layer, window):
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    return [((size - 1) // 2, size // 2) for size in window]


def _pool(layer, x):
    window = (1, layer.size, layer.size, 1)
    strides = (1, layer.stride, layer.stride, 1)
    padding = [(0, 0), *_padding(layer, (layer.size,) * 2), (0, 0)]
    if layer.kind == "max_pool":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    # A mean of the pixels inside the image: padding is left out.
    ones = jnp.ones_like(x[:1, ..., :1])
    total, count = (
        jax.lax.reduce_window(part, 0.0, jax.lax.add, window, strides, padding)
        for part in (x, ones)
    )
    return total / count
