"""The folder of a training belongs to one set of settings."""

import json
import pathlib
import shutil
from collections.abc import Mapping

import jax

from ddae_jax.errors import UserError
from ddae_jax.runtime import parallel, working_copy
from ddae_jax.runtime.files import replacing
from ddae_jax.train.loop import DIVERGED

SETTINGS = "settings.json"


def find_settings(folder: str | pathlib.Path) -> dict | None:
    """What a folder was trained with; None where nothing was.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(folder) / SETTINGS
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
    """Makes `folder` the one of a training with these settings; process 0 alone."""
    if jax.process_index() == 0:
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / SETTINGS) as part:
            part.write_text(json.dumps(dict(settings), indent=2) + "\n")
    parallel.all_processes(True)


def has_diverged(folder: str | pathlib.Path) -> bool:
    """Whether the last training in `folder` ended with a loss that is not finite.

    Other settings may then begin anew in it: nothing of use is lost.
    """
    return (pathlib.Path(folder) / DIVERGED).exists()


def clear(folder: str | pathlib.Path) -> None:
    """Removes a training, when all processes have seen what is in its folder."""
    parallel.all_processes(True)
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        working_copy.push(pathlib.Path(folder))  # before another one begins in it
    parallel.all_processes(True)


def keep_only(folder: str | pathlib.Path, identity: str) -> None:
    """Makes `folder` the one of the training of this identity.

    The same training goes on in it; what another one left there goes.
    """
    wanted = {"identity": identity}
    if find_settings(folder) != wanted:
        clear(folder)
        write_settings(folder, wanted)
