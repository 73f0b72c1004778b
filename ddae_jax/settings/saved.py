"""The config that a workdir keeps, and what of it a later command cannot change."""

import json
import pathlib

from absl import logging
from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.runtime.files import read_object, replacing
from ddae_jax.settings import config_files, plain, schema
from ddae_jax.settings.root import CHOSEN, Settings

FILE = "config.json"
# What a checkpoint was made with: a later task cannot change it.
_SECTIONS = ("network", "process", "objectives")
_MODEL = (
    *(f"{section}." for section in _SECTIONS),
    "train.class_conditional",
    "train.label_dropout",
)
_DATA = ("data.name", "data.image_size", "data.channels", "data.resize")
TRAINED = (*_DATA, *_MODEL)
_OLD_NAMES = {"import": "import_weights"}  # of sections, in workdirs of version 0.1


def read(workdir: pathlib.Path) -> ConfigDict | None:
    """Returns the config that `workdir` holds, or None.

    Raises:
      UserError: it is no config, or names a network, process or sampler that does not
        exist.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    saved = read_object(path)
    try:
        names = [str(saved[section]["name"]) for section in CHOSEN]
        imports = [str(name) for name in saved.get("imports", ())]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the config of a run: {error!r}") from error
    config_files.import_modules(imports)
    config = schema.default(*names)
    try:
        _fill(config, saved, "")
    except TypeError as error:
        raise UserError(f"{path}: not the config of a run: {error}") from error
    return config


def write(settings: Settings, workdir: pathlib.Path) -> None:
    """Writes `workdir`/config.json, whole or not at all."""
    with replacing(workdir / FILE) as part:
        part.write_text(json.dumps(plain.of_settings(settings), indent=2) + "\n")


def keep_trained(
    config: ConfigDict, saved: ConfigDict, workdir: pathlib.Path
) -> ConfigDict:
    """What `workdir` was trained with stays, and a contradiction is said."""
    if not (workdir / "checkpoints").is_dir():
        return config
    # Of imported weights, no config tells the images that they were trained on.
    trained = _MODEL if _imported(workdir) else TRAINED
    new, old = (plain.flatten(each.to_dict()) for each in (config, saved))
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
        for section in _SECTIONS:
            config[section] = saved[section]
        for field in trained:
            if not field.endswith("."):
                section, key = field.split(".")
                if saved[section][key] != config[section][key]:
                    config[section][key] = saved[section][key]
        if config.sampler.name not in schema.choices(config, "sampler"):
            config.sampler = saved.sampler
    config.lock()
    return config


def _fill(config: ConfigDict, saved: dict, prefix: str) -> None:
    for key, value in saved.items():
        key = key if prefix else _OLD_NAMES.get(key, key)
        if key not in config:
            logging.warning("config.json: field %s%s is not known", prefix, key)
        elif isinstance(value, dict):
            _fill(config[key], value, f"{prefix}{key}.")
        elif value is not None or config[key] is not None:  # None keeps its type
            config[key] = _tuples(value)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _imported(workdir: pathlib.Path) -> bool:
    """Whether its checkpoint came in by the task import, whatever was done since."""
    path = workdir / "data.json"
    return path.exists() and read_object(path).get("train_images", 0) is None
