"""Reads pickles that hold numpy arrays and plain containers, and nothing else.

A pickle can name any function to be called while it is read. This reader knows only
its own builders of arrays and bytes and refuses every other name, so a file can do no
harm. A reader of some kind of file may lend it more builders of inert values.
"""

import io
import pickle
from collections.abc import Callable, Mapping

import numpy as np

from ddae_jax.errors import UserError


def safe_unpickle(
    content: bytes,
    where: str,
    builders: Mapping[tuple[str, str], object] | None = None,
) -> object:
    """Unpickles numpy arrays and plain containers.

    Args:
      content: of the file.
      where: what errors call the file.
      builders: (module, name) -> what stands for it, beside numpy's own; nothing that
        it gives or does may depend on code in the file.

    Raises:
      UserError: the pickle asks for anything else, which is named, or is corrupt.
    """
    return unpickle_next(io.BytesIO(content), where, builders)


def unpickle_next(
    stream: io.BytesIO,
    where: str,
    builders: Mapping[tuple[str, str], object] | None = None,
    persistent_load: Callable[[object], object] | None = None,
) -> object:
    """`safe_unpickle` of one pickle in a stream, which is left behind its end.

    Args:
      persistent_load: what an object outside the pickle becomes; None refuses it.
    """
    reader = _Unpickler(stream, encoding="bytes")
    reader.builders = builders or {}
    if persistent_load is not None:
        reader.persistent_load = persistent_load
    try:
        return reader.load()
    except _RefusedError as error:
        raise UserError(f"{where}: refused, the pickle asks for {error}") from error
    except UserError:  # of a pickle inside this one
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: corrupt or truncated pickle ({reason})") from error


class _RefusedError(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    builders: Mapping[tuple[str, str], object]

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            **self.builders,
            # numpy 1 and 2 spell the module of the same function differently.
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.numeric", "_frombuffer"): _frombuffer,
            ("numpy._core.numeric", "_frombuffer"): _frombuffer,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy._core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _encode_latin1,
        }
        if (module, name) not in allowed:
            raise _RefusedError(f"{module}.{name}")
        return allowed[module, name]


def _reconstruct(kind, shape, typecode):
    if kind is not np.ndarray:
        raise _RefusedError(f"an array of class {kind}")
    return np.ndarray.__new__(np.ndarray, shape, _dtype(typecode))


def _frombuffer(buffer, dtype, shape, order, *_):
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _scalar(dtype, content):
    """One number, as numpy pickles it: its bytes."""
    if not isinstance(content, bytes) or len(content) != np.dtype(dtype).itemsize:
        raise _RefusedError("a number whose bytes do not fit its type")
    return np.frombuffer(content, _dtype(dtype))[0]


def _dtype(*arguments):
    dtype = np.dtype(*arguments)
    if dtype.kind not in "biuf":
        raise _RefusedError(f"an array of type {dtype}")
    return dtype


def _encode_latin1(text, encoding):
    """How pickles of Python 3 in protocol 2 spell bytes."""
    if encoding not in ("latin1", b"latin1"):
        raise _RefusedError(f"the codec {encoding}")
    return text.encode("latin1") if isinstance(text, str) else text
