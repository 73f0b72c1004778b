"""The config that a workdir keeps, and what of it a later command cannot change."""

import json
import pathlib

from absl import logging
from ml_collections import ConfigDict

from ddae_jax.errors import UserError
from ddae_jax.runtime.files import read_object, replacing
from ddae_jax.settings import config_files, plain, schema
from ddae_jax.settings.root import CHOSEN, Settings
from ddae_jax.settings.source_search import AUTO, DEFAULT

FILE = "config.json"
SEARCHED = "source_search.json"
"""What the search for the source of self-conditioning left."""
# What a checkpoint was made with: a later task cannot change it.
_SECTIONS = ("network", "process", "objectives")
_MODEL = (
    *(f"{section}." for section in _SECTIONS),
    "train.class_conditional",
    "train.label_dropout",
)
_DATA = ("data.name", "data.image_size", "data.channels", "data.resize")
TRAINED = (*_DATA, *_MODEL)
# Of these, what changes no parameter: where a file lies, when a run is to end.
_FREE = (
    "objectives.alignment.features",
    "objectives.contrastive.collapse_rank",
    "objectives.contrastive.stop_on_collapse",
)
_SOURCE = "network.self_condition.tap"
_OLD_VALUES = {"network.remat": {False: "none", True: "full"}}
"""Field -> values of other types in older workdirs, and what they are called now."""
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
    """What `workdir` was trained with stays, and a contradiction is said.

    Another word for the same source of self-conditioning is none.
    """
    if not (workdir / "checkpoints").is_dir():
        return config
    trained = _MODEL if _takes_any_images(workdir) else TRAINED
    new, old = (plain.flatten(each.to_dict()) for each in (config, saved))
    # The value "" names no file.
    free = {f: new[f] for f in _FREE if new.get(f) not in ("", None)}
    for field, value in old.items():
        if field in free or not field.startswith(trained):
            continue
        same = field == _SOURCE and _same_source(saved, value, new.get(field), workdir)
        if not same and new.get(field) != value:
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
        config.update_from_flattened_dict(free)
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
            if isinstance(value, bool):
                value = _OLD_VALUES.get(f"{prefix}{key}", {}).get(value, value)
            config[key] = _tuples(value)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _same_source(saved: ConfigDict, old: str, new: str, workdir: pathlib.Path) -> bool:
    """Whether two values of `_SOURCE` mean one tap: "auto" what the search chose."""
    words = {DEFAULT: schema.network(saved).self_condition_default}
    searched = workdir / SEARCHED
    if AUTO in (old, new) and searched.exists():
        words[AUTO] = read_object(searched).get("tap")
    return words.get(old, old) == words.get(new, new)


def _takes_any_images(workdir: pathlib.Path) -> bool:
    """Whether config.data does not tell the images that it was trained on.

    Imported weights were trained elsewhere, whatever was done since; a denoiser that
    was trained on latents is probed on images.
    """
    path = workdir / "data.json"
    known = read_object(path) if path.exists() else {}
    return known.get("train_images", 0) is None or "latents" in known
