"""Counts what jax compiles."""

import contextlib
import logging
import re
from collections.abc import Iterator

import jax

_LOGGER = logging.getLogger("jax")


@contextlib.contextmanager
def names() -> Iterator[list[str]]:
    """Fills a list with the names of the functions that are compiled within."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            match = re.match(r"Compiling (?:jit\()?([^\s)]+)", record.getMessage())
            if match:
                found.append(match[1])

    handler = Keep()
    _LOGGER.addHandler(handler)
    try:
        with jax.log_compiles():
            yield found
    finally:
        _LOGGER.removeHandler(handler)
