"""From Python's arguments to the command line that says the same."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import program_cache
from ddae_jax.settings import command_line


def command_of(
    config: str | os.PathLike | None,
    workdir: str | os.PathLike | None,
    tasks: Sequence[str],
    settings: Mapping[str, Any],
) -> command_line.Command:
    """Reads a request as the command line would.

    Args:
      config: as --config; None goes by what the workdir holds.
      workdir: None is runs/NAME-VARIANT.
      tasks: may be empty: those of the config.
      settings: "section.field" -> value.

    Raises:
      UserError: one line that names what cannot be used.
    """
    if config is None and workdir is None:
        raise UserError("name a config, or the workdir of an earlier run")
    words = ["ddae_jax"]
    if config is not None:
        words.append(f"--config={os.fspath(config)}")
    if workdir is not None:
        words.append(f"--workdir={os.fspath(workdir)}")
    if tasks:
        words.append(f"--task={','.join(tasks)}")
    words += [
        f"--config.{name}={_word(name, value)}" for name, value in settings.items()
    ]
    program_cache.prepare()
    return command_line.parse(words, main.define_flags)


def _word(name: str, value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (str, pathlib.PurePath)):
        return str(value)
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, str) for item in value):
            return ",".join(value)
        return repr(tuple(value))
    if isinstance(value, (bool, int, float)):
        return repr(value)
    raise UserError(
        f"{name}: {value!r} is a {type(value).__name__}; settings are numbers, texts, "
        "True or False, and lists of them"
    )
