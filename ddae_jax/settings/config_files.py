"""Config files: a path, or the name of one of the project's own."""

import importlib
import importlib.util
import pathlib
import re
from collections.abc import Iterable
from importlib import metadata

from ml_collections import ConfigDict

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import check_regular
from ddae_jax.settings import schema
from ddae_jax.settings.fields import unknown

_TEST = "test"
PLUGINS = "ddae_jax"
"""Entry points of this group name modules that register networks, tasks and so on."""


def load(given: str) -> ConfigDict:
    """Runs get_config(variant) of "path/to/file.py[:variant]", or of "NAME[:variant]".

    The variants "test" and "VARIANT+test" of any file are its default and VARIANT,
    shrunk by `schema.shrink`; a function `for_test(config)` in the file then changes
    what else they need. The file is the user's code; it may register networks, data
    sets and tasks.

    Raises:
      UserError: no such file, or it does not know the variant.
    """
    path, _, variant = given.partition(":")
    if re.fullmatch(r"\w+", path):
        path = str(_own(path))
    if pathlib.Path(path).exists():
        check_regular(path)
    else:
        folder = pathlib.Path(path).parent
        known = sorted(map(str, folder.glob("*.py"))) if folder.is_dir() else []
        if not known:
            raise UserError(f"--config: there is no file {path}")
        raise UserError(unknown("--config", path, known))
    spec = importlib.util.spec_from_file_location("ddae_jax_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if "get_config" not in vars(module):
        raise UserError(f"--config: {path} has no function get_config")
    *before, last = variant.split("+")
    if last != _TEST:
        return module.get_config(variant)
    config = module.get_config("+".join(before))
    schema.shrink(config)
    config.variant = variant
    if "for_test" in vars(module):
        module.for_test(config)
    return config


def import_modules(names: Iterable[str]) -> None:
    """Imports what registers networks, data sets and tasks: config.imports.

    Raises:
      UserError: there is no such module.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"config.imports: {name!r}: {reason}") from error


def import_plugins() -> None:
    """Imports what installed packages add: entry points of the group `ddae_jax`.

    Raises:
      UserError: one of them cannot be imported.
    """
    for found in metadata.entry_points(group=PLUGINS):
        try:
            found.load()
        except Exception as error:  # whatever somebody's module raises
            package = found.dist.name if found.dist else "an installed package"
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"{package}: its entry point {found.name!r} of the group {PLUGINS!r} "
                f"cannot be imported: {reason}"
            ) from error


def _own(name: str) -> pathlib.Path:
    """The file of one of the project's configs, wherever this is installed."""
    package = pathlib.Path(ddae_jax.__file__).parent
    # In a wheel the configs lie in the package, in a checkout beside it.
    folders = (package / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    path = folder / f"{name}.py"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.py")]
        raise UserError(unknown("--config", name, known))
    return path
