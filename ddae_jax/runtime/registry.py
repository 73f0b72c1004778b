"""Classes that configs know by name, those of other packages too."""

import inspect
from collections.abc import Mapping

from ddae_jax.errors import UserError


def check_class(kind: str, name: str, cls: type, base: type, known: Mapping) -> None:
    """Raises a UserError unless `cls` can be known as `name`.

    A class that is defined again, as when its file is read twice, may take the place of
    the one before.

    Args:
      kind: what such classes are called.
      base: whose whole subclass it must be.
      known: name -> class.
    """
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise UserError(f"{kind} {name!r}: {cls!r} is no subclass of {base.__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{kind} {name!r}: {cls.__name__} lacks {missing}")
    other = known.get(name, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UserError(f"{kind} {name!r} is {other.__name__} already")
