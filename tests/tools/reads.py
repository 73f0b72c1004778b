"""Where the host reads arrays of the device, and so waits for them.

`jax.transfer_guard_device_to_host` says nothing on CPUs, whose arrays are not copied.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import pytest

_READING = ("__array__", "__bool__", "__float__", "__index__", "__int__", "item")


@contextlib.contextmanager
def noted(now: Callable[[], int]) -> Iterator[list[tuple[int, str]]]:
    """Fills a list with (now(), method) of each reading of an array within."""
    found = []

    def noting(name, method):
        def read(array, *arguments, **keywords):
            found.append((now(), name))
            return method(array, *arguments, **keywords)

        return read

    kind = type(jnp.zeros(()))
    with pytest.MonkeyPatch.context() as patch:
        for name in _READING:
            patch.setattr(kind, name, noting(name, getattr(kind, name)))
        yield found
