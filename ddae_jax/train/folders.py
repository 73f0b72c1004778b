"""The folder of a training belongs to one set of settings."""

import json
import pathlib
import shutil
from collections.abc import Mapping

from ddae_jax.errors import UserError
from ddae_jax.runtime import parallel, processes, working_copy
from ddae_jax.runtime.files import write_json
from ddae_jax.train.loop import DIVERGED

SETTINGS = "settings.json"


def find_settings(folder: str | pathlib.Path) -> dict | None:
    """What a folder was trained with; None where nothing was.

    All processes get what process 0 sees, and decide alike.

    Raises:
      UserError: the file is damaged.
    """
    return processes.on_first(lambda: _read_settings(pathlib.Path(folder) / SETTINGS))


def _read_settings(path: pathlib.Path) -> dict | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not settings, but a {type(found).__name__}")
    return found


def write_settings(folder: str | pathlib.Path, settings: Mapping) -> None:
    """Makes `folder` the one of a training with these settings."""
    folder = pathlib.Path(folder)

    def write():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)

    processes.on_first(write)


def has_diverged(folder: str | pathlib.Path) -> bool:
    """Whether the last training in `folder` ended with a loss that is not finite.

    Other settings may then begin anew in it: nothing of use is lost.
    """
    return processes.on_first((pathlib.Path(folder) / DIVERGED).exists)


def clear(folder: str | pathlib.Path) -> None:
    """Removes a training, when all processes have seen what is in its folder."""
    parallel.all_processes(True)
    processes.on_first(lambda: _remove(pathlib.Path(folder)))


def _remove(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    working_copy.push(folder)  # before another one begins in it


def keep_only(folder: str | pathlib.Path, identity: str) -> None:
    """Makes `folder` the one of the training of this identity.

    The same training goes on in it; what another one left there goes.
    """
    wanted = {"identity": identity}
    if find_settings(folder) != wanted:
        clear(folder)
        write_settings(folder, wanted)
