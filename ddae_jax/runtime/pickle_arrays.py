"""Makes numpy's arrays and numbers, bytes and sets of what a pickle says of them.

`safe_pickle` runs the pickle; here its names are given a meaning. An array is made of
its bytes alone, after its type and shape were checked against them.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

_MOST_AXES = 32  # of an array
_PLAIN_KEYS = (str, bytes, int, float, type(None))
_DTYPE = re.compile(r"[<>|=]?([biu][1248]|f[248]|\?)")


class RefusedError(Exception):
    """The file asks for something that is not given to it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """A name of the file, as a marker that does nothing."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class NoContentYet:
    """An array between the two steps in which numpy's older pickles make it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Type:
    """A numpy type of the file."""

    dtype: np.dtype


def plain_key(value: Any) -> str | bytes | int | float | None:
    """`value`, if hashing and comparing it are quick and run nothing.

    Raises:
      RefusedError: they may not be.
    """
    if not isinstance(value, _PLAIN_KEYS):
        raise RefusedError(f"a {type(value).__name__} as a key")
    return value


def type_of_state(target: Type, state: Sequence[Any]) -> Type:
    """A type in the byte order that numpy's pickles give apart.

    Args:
      state: of the file, of any length and content: (version, byte order, the parts
        of a record ...).

    Raises:
      RefusedError: the type is of records.
      ValueError: there is no such byte order.
    """
    _, order, *record = state
    if any(part is not None for part in record[:3]):
        raise RefusedError("an array of records")
    order = order.decode() if isinstance(order, bytes) else order
    if order not in ("<", ">", "|", "="):
        raise ValueError(f"the byte order {order!r}")
    return Type(target.dtype.newbyteorder(order))


def array_of_state(state: Sequence[Any]) -> Shaped[np.ndarray, "..."]:
    """An array of the state that numpy's older pickles give apart.

    Args:
      state: of the file, of any length and content: (..., shape, type, whether it lies
        in Fortran's order, bytes).

    Raises:
      RefusedError: these are not of an array, or do not fit each other.
    """
    *_, shape, dtype, fortran, content = state
    return _array(content, dtype, shape, "F" if fortran else "C")


def _array(content, dtype, shape, order):
    """The array of `shape` whose bytes are `content`."""
    if not isinstance(dtype, Type):
        raise RefusedError(f"an array of a {type(dtype).__name__}")
    if not isinstance(content, bytes):
        raise RefusedError(f"an array whose content is a {type(content).__name__}")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise RefusedError("an array without a shape")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise RefusedError("an array of a shape that cannot be")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise RefusedError("an array whose shape does not fit its bytes")
    if order not in ("C", "F"):
        raise RefusedError(f"an array in the order {order!r}")
    flat = np.frombuffer(content, dtype.dtype)
    if flat.dtype == bool:  # numpy counts on bytes of 0 and 1
        flat = flat.view(np.uint8) != 0
        flat.flags.writeable = False
    return flat.reshape(shape, order=order)


def _reconstruct(kind, _shape, _typecode):
    if not isinstance(kind, Name) or (kind.module, kind.name) != ("numpy", "ndarray"):
        raise RefusedError("an array of another class")
    return NoContentYet()


def _from_buffer(content, dtype, shape, order, axes=None):
    if order != "K":
        return _array(content, dtype, shape, order)
    return _array(content, dtype, shape, "C").transpose(tuple(map(int, axes)))


def _scalar(dtype, content):
    """One number, as numpy pickles it: its bytes."""
    return _array(content, dtype, (), "C")[()]


def _dtype(name, *_):
    name = name.decode() if isinstance(name, bytes) else name
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        shown = name if isinstance(name, str) else f"a {type(name).__name__}"
        raise RefusedError(f"an array of type {shown}")
    return Type(np.dtype(name))


def _not_made(*_):
    raise RefusedError("an array made without its bytes")


def _encode_latin1(text, encoding):
    """How pickles of Python 3 in protocol 2 spell bytes."""
    if encoding not in ("latin1", b"latin1"):
        raise RefusedError("a codec other than latin1")
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


def _bytes(content=b""):
    """bytes() and bytearray(content), as older protocols write them."""
    if not isinstance(content, bytes):
        raise RefusedError(f"bytes of a {type(content).__name__}")
    return content


def _set(items=()):
    if not isinstance(items, list | tuple):
        raise RefusedError(f"a set of a {type(items).__name__}")
    return set(map(plain_key, items))


BUILDERS = {
    ("numpy", "ndarray"): _not_made,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode_latin1,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "set"): _set,
    # numpy 1 and 2 spell the module of the same function differently.
    **{
        (f"numpy.{core}.{module}", name): builder
        for core in ("core", "_core")
        for module, name, builder in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
