"""From the words of the command line to a checked config and a workdir."""

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.runtime.files import replacing
from ddae_jax.settings import checks as config_checks
from ddae_jax.settings import config as config_lib
from ddae_jax.settings import weights_sections as config_weights

# What a checkpoint was made with: a later task cannot change it.
_MODEL = ("network.", "process.", "train.class_conditional", "train.label_dropout")
TRAINED = ("data.name", "data.image_size", "data.channels", *_MODEL)
_CONFIG = "--config"


@dataclasses.dataclass(frozen=True)
class Command:
    """What the user asked for.

    Attributes:
      config: checked and locked.
      workdir: an existing folder; config.json is in it.
      flags: the values of main's own flags.
    """

    config: ConfigDict
    workdir: pathlib.Path
    flags: flags.FlagValues


def load_config_file(given: str) -> ConfigDict:
    """Runs get_config(variant) of "path/to/file.py[:variant]", or of the config NAME of
    this project, as "NAME[:variant]".

    Raises:
      UserError: no such file, or it does not know the variant.
    """
    path, _, variant = given.partition(":")
    if re.fullmatch(r"\w+", path):
        path = str(_named_config(path))
    if not pathlib.Path(path).is_file():
        folder = pathlib.Path(path).parent
        known = sorted(map(str, folder.glob("*.py"))) if folder.is_dir() else []
        if not known:
            raise UserError(f"--config: there is no file {path}")
        raise UserError(config_lib.unknown("--config", path, known))
    spec = importlib.util.spec_from_file_location("ddae_jax_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config: {path} has no function get_config")
    return module.get_config(variant)


def _named_config(name: str) -> pathlib.Path:
    """The file of one of the project's own configs, wherever this is installed."""
    package = pathlib.Path(ddae_jax.__file__).parent
    # In a wheel the configs lie in the package, in a checkout beside it.
    folders = (package / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    path = folder / f"{name}.py"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.py")]
        raise UserError(config_lib.unknown("--config", name, known))
    return path


def read_saved(workdir: pathlib.Path) -> ConfigDict | None:
    """Returns the config that `workdir` holds, or None."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    base = config_lib.default(
        saved["network"]["name"], saved["process"]["name"], saved["sampler"]["name"]
    )
    _fill(base, saved, "")
    return base


def _fill(config: ConfigDict, saved: dict, prefix: str) -> None:
    for key, value in saved.items():
        if key not in config:
            logging.warning("config.json: field %s%s is not known now", prefix, key)
        elif isinstance(value, dict):
            _fill(config[key], value, f"{prefix}{key}.")
        elif value is not None or config[key] is not None:  # None keeps its type
            config[key] = _tuples(value)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def parse(argv: Sequence[str], define, tasks: Sequence[str]) -> Command:
    """Reads the command line.

    Args:
      argv: sys.argv.
      define: function that defines main's own flags on a FlagValues.
      tasks: the names of the tasks that exist.

    Raises:
      UserError: one line that names what cannot be used.
    """
    values = flags.FlagValues()
    define(values)
    own = [word for word in argv if not word.startswith(f"{_CONFIG}.")]
    try:
        rest = values(own, known_only=False)
    except flags.Error as error:
        raise UserError(str(error).split("\n")[0]) from error
    if len(rest) > 1:
        raise UserError(f"unknown word {rest[1]!r}; flags begin with --")
    saved = read_saved(pathlib.Path(values.workdir)) if values.workdir else None
    if values.config:
        config = load_config_file(values.config)
    elif saved is not None:
        config = read_saved(pathlib.Path(values.workdir))
    elif values.task and "import" in values.task.split(","):
        config = config_lib.default()  # the file says the rest
        config.name = "imported"
    elif values.workdir and not pathlib.Path(values.workdir).is_dir():
        beside = [
            p for p in pathlib.Path(values.workdir).parent.glob("*") if p.is_dir()
        ]
        raise UserError(
            config_lib.unknown("--workdir: folder", values.workdir, map(str, beside))
            if beside
            else f"--workdir: there is no folder {values.workdir}"
        )
    else:
        raise UserError(
            "--config: name a file, such as configs/digits.py, or give the --workdir "
            "of an earlier run"
        )
    if values.task and "import" in values.task.split(","):
        with config.unlocked():  # what an earlier file needed is not this one's
            config["import"] = config_weights.import_section()
    given = [word for word in argv if word.startswith(f"{_CONFIG}.")]
    config = _override(config, given)
    if values.task:
        config.tasks = tuple(values.task.split(","))
    variant = f"-{config.variant}" if config.variant else ""
    workdir = pathlib.Path(values.workdir or f"runs/{config.name}{variant}")
    saved = saved or read_saved(workdir)
    if saved is not None:
        config = _keep_trained(config, saved, workdir)
    config_checks.validate(config, tasks)
    return Command(config, workdir, values)


def _override(config: ConfigDict, words: Sequence[str]) -> ConfigDict:
    for section in ("network", "process", "sampler"):  # a process brings its sampler
        start = f"{_CONFIG}.{section}.name="
        for name in (w.removeprefix(start) for w in words if w.startswith(start)):
            if name != config[section].name:
                config_lib.select(config, section, name)
    known = config_lib.flatten(config)
    for word in words:
        field = word.removeprefix(f"{_CONFIG}.").split("=")[0]
        if field not in known:
            raise UserError(
                config_lib.unknown(f"--config.{field}: field", field, known)
            )
        if "=" not in word:
            raise UserError(f"{word}: write it as {word}=VALUE")
    values = flags.FlagValues()
    # ml_collections reads field names as Python, where "import" is a keyword.
    keyword, alias = f"{_CONFIG}.import.", f"{_CONFIG}.import_."
    with config.unlocked():
        config.import_ = config["import"]
    argv = ["main", *(word.replace(keyword, alias, 1) for word in words)]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        message = str(error).split("\n")[0].replace(alias, keyword)
        raise UserError(message) from error
    with config.unlocked():
        del config.import_
    for field in (word.removeprefix(f"{_CONFIG}.").split("=")[0] for word in words):
        _split_words(config, field)
    config.lock()
    return config


def _split_words(config: ConfigDict, field: str) -> None:
    """ml_collections reads out_6,out_7 as one word: makes it two."""
    *sections, key = field.split(".")
    for section in sections:
        config = config[section]
    if isinstance(config[key], tuple):
        parts = (v.split(",") if isinstance(v, str) else [v] for v in config[key])
        config[key] = tuple(itertools.chain.from_iterable(parts))


def _keep_trained(
    config: ConfigDict, saved: ConfigDict, workdir: pathlib.Path
) -> ConfigDict:
    """What `workdir` was trained with stays, and a contradiction is said."""
    if not (workdir / "checkpoints").is_dir():
        return config
    # Of imported weights, no config tells the images that they were trained on.
    trained = _MODEL if _imported(workdir) else TRAINED
    new, old = config_lib.flatten(config), config_lib.flatten(saved)
    for field, value in old.items():
        if field.startswith(trained) and new.get(field) != value:
            logging.warning(
                "%s was trained with %s=%r: that is used, not %r",
                workdir,
                field,
                value,
                new.get(field),
            )
    with config.unlocked():
        for section in ("network", "process"):
            config[section] = saved[section]
        for field in trained:
            if not field.endswith("."):
                section, key = field.split(".")
                if saved[section][key] != config[section][key]:
                    config[section][key] = saved[section][key]
    if config.sampler.name not in config_lib.samplers_of(config.process.name):
        with config.unlocked():
            config.sampler = saved.sampler
    config.lock()
    return config


def _imported(workdir: pathlib.Path) -> bool:
    """Whether its checkpoint came in by the task import, whatever was done since."""
    path = workdir / "data.json"
    return path.exists() and json.loads(path.read_text()).get("train_images", 0) is None


def save(command: Command) -> None:
    """Writes config.json, and adds the command to commands.txt; process 0 alone."""
    command.workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() != 0:
        return
    text = json.dumps(command.config.to_dict(), indent=2) + "\n"
    with replacing(command.workdir / "config.json") as part:
        part.write_text(text)
    with (command.workdir / "commands.txt").open("a") as lines:
        words = shlex.join(["python", "-m", "ddae_jax.main", *sys.argv[1:]])
        lines.write(f"{words}\n")
