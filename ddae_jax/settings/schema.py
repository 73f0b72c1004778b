"""Settings <-> ml_collections.ConfigDict: defaults, checks, `:test`, saved configs.

A ConfigDict is what config files and the command line edit. Its sections, fields and
defaults are read off the dataclasses of settings/, of the networks, the processes and
the samplers; `build` turns it into `Settings`, and is the one place where values are
checked.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from ddae_jax import heads
from ddae_jax.data.sources import SOURCES, TFDS_PREFIX
from ddae_jax.diffusion import PROCESSES, SAMPLERS
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.sampler import Sampler
from ddae_jax.errors import UserError
from ddae_jax.models import NETWORKS
from ddae_jax.models.base import Network
from ddae_jax.settings import fields, plain
from ddae_jax.settings.fields import Bounds, unknown
from ddae_jax.settings.root import CHOSEN, Settings
from ddae_jax.tasks import TASKS
from ddae_jax.train import objectives

_NAME = Bounds("which one")


def default(
    network: str = "unet", process: str = "ddpm", sampler: str | None = None
) -> ConfigDict:
    """Returns a config with every field at its default, locked.

    Args:
      sampler: None is the first of the process.

    Raises:
      UserError: there is no such network, process or sampler.
    """
    config = ConfigDict()
    for name, (kind, value, _) in fields.declared(Settings).items():
        config[name] = _placed(kind, value)
    select(config, "network", network)
    select(config, "process", process)
    if sampler is not None:
        select(config, "sampler", sampler)
    for name, cls in sections().items():
        config[name] = _section(cls)
    config.lock()
    return config


def sections() -> dict[str, type]:
    """Name of each section of fixed fields -> its dataclass, those of outside too."""
    tasks = {name: task.section for name, task in TASKS.items() if task.section}
    own = fields.sections(Settings) | {"objectives": objectives.section()}
    return own | tasks


def complete(config: ConfigDict) -> None:
    """Adds the fields of what was registered after the config was made."""
    with config.unlocked():
        for name, cls in sections().items():
            if name not in config:
                config[name] = _section(cls)
            for inner, inner_cls in fields.sections(cls).items():
                if inner not in config[name]:
                    config[name][inner] = _section(inner_cls)


def choices(config: ConfigDict, section: str) -> Mapping[str, type]:
    """Name -> class of what `network`, `process` or `sampler` can be."""
    if section == "sampler":
        return SAMPLERS[config.process.name]
    return {"network": NETWORKS, "process": PROCESSES}[section]


def select(config: ConfigDict, section: str, name: str) -> None:
    """Puts the defaults of what `name` names into `section`.

    Args:
      section: one of CHOSEN. A new process also brings its first sampler, unless it has
        the one that is there.

    Raises:
      UserError: there is no such name.
    """
    known = choices(config, section)
    if name not in known:
        raise UserError(unknown(f"config.{section}.name", name, known))
    with config.unlocked():
        config[section] = _section(known[name], name=name)
    if section != "process":
        return
    samplers = choices(config, "sampler")
    if "sampler" not in config or config.sampler.name not in samplers:
        select(config, "sampler", next(iter(samplers)))


def shrink(config: ConfigDict) -> None:
    """Turns a config into its `:test` variant, which takes seconds.

    Every task takes the same path through the code, on images of 8x8. The network is
    its own `tiny()`, and taps become those of the same relative depth in it; the other
    fields become what they declare as `test`.
    """
    whole = _built(config, "network", NETWORKS)
    network = whole.tiny()
    if config.network.get("image_channels", None) is None:
        network = network.clone(image_channels=None)
    before, after = tuple(whole.tap_paths()), tuple(network.tap_paths())

    def tap_in_tiny(tap):
        if tap not in before:
            return tap
        depth = before.index(tap) / max(len(before) - 1, 1)
        return after[round(depth * (len(after) - 1))]

    with config.unlocked():
        for path, taps in _taps(config):
            one = isinstance(taps, str)
            tiny = tap_in_tiny(taps) if one else tuple(map(tap_in_tiny, taps))
            _put(config, path, tiny)
        for path, value in plain.flatten(plain.of_section(network)).items():
            _put(config.network, path, value)
        if not config.probe.times and not config.probe.noise_levels:
            times = _built(config, "process", PROCESSES).probe_times
            config.probe.times = times
        flat = plain.flatten(config.to_dict())
        for path, (_, _, bounds) in _declared(config):
            _put(config, path, bounds.tested(flat[path]))
    config.lock()


def build(config: ConfigDict, tasks: Iterable[str] = ()) -> Settings:
    """Checks every value, and returns the settings.

    Args:
      tasks: that are asked for beside config.tasks.

    Raises:
      UserError: names the field, what was given and what is possible.
    """
    for task in (*config.tasks, *tasks):
        if task not in TASKS:
            raise UserError(unknown("config.tasks", task, TASKS))
    values = {
        name: _checked(f"config.{name}", config[name], kind, bounds)
        for name, (kind, _, bounds) in fields.declared(Settings).items()
    }
    for section in CHOSEN:
        values[section] = _built(config, section, choices(config, section))
    others = {}
    for name, cls in sections().items():
        built = _instance(f"config.{name}", cls, config[name])
        (values if name in Settings.__dataclass_fields__ else others)[name] = built
    data = values["data"].name
    if data not in SOURCES and not data.startswith(TFDS_PREFIX):
        known = (*SOURCES, f"{TFDS_PREFIX}NAME")
        raise UserError(unknown("config.data.name", data, known))
    heads.check(values["probe"])
    _check_taps(config, values["network"])
    _check_together(values)
    names = {section: config[section].name for section in CHOSEN}
    return Settings(**values, names=names, others=others)


def changed(
    settings: Settings,
    names: Mapping[str, str],
    values: Mapping[str, Mapping[str, Any]],
) -> Settings:
    """The settings with another network, process or sampler, and other fields.

    Args:
      names: section of CHOSEN -> what it is to be; its fields go to their defaults.
      values: section -> field -> value. None is left out, for it keeps its type.

    Raises:
      UserError: as `build`.
    """
    config = default(*(settings.names[section] for section in CHOSEN))
    with config.unlocked():
        config.update_from_flattened_dict(_given(plain.of_settings(settings)))
        # The sampler last: those that there are depend on the process.
        for section in ("process", "network", "sampler"):
            if section in names:
                select(config, section, names[section])
        config.update_from_flattened_dict(_given(values))
    return build(config)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    flat = plain.flatten(values)
    return {path: value for path, value in flat.items() if value is not None}


def reset(config: ConfigDict, section: str) -> None:
    """Puts the defaults into a section of fixed fields."""
    with config.unlocked():
        config[section] = _section(sections()[section])


def network(config: ConfigDict) -> Network:
    """Builds the network that the config describes.

    Raises:
      UserError: a field is out of bounds, or its fields do not go together.
    """
    return _built(config, "network", NETWORKS)


def process(config: ConfigDict) -> Process:
    """Builds the process that the config describes; errors as `network`."""
    return _built(config, "process", PROCESSES)


def sampler(config: ConfigDict) -> Sampler:
    """Builds the sampler that the config describes; errors as `network`."""
    return _built(config, "sampler", choices(config, "sampler"))


def check_variant(name: str, given: str, known: Iterable[str]) -> None:
    """Raises a UserError where config `name` has no variant `given`.

    "" always is one; "test" is read by `config_files.load`.
    """
    if given and given not in known:
        known = (*known, "test")
        raise UserError(unknown(f"variant of config {name}", given, known))


def reference(config: ConfigDict) -> Iterator[tuple[str, Any, Bounds]]:
    """Yields (path, default, bounds) of every field of `config`."""
    for path, (_, value, bounds) in _declared(config):
        yield path, value, bounds


def _declared(config: ConfigDict) -> Iterator[tuple[str, tuple[Any, Any, Bounds]]]:
    """Yields (path, (type, default, bounds)) of every declared field."""
    yield from fields.declared(Settings).items()
    for section in CHOSEN:
        cls = choices(config, section)[config[section].name]
        yield f"{section}.name", (str, config[section].name, _NAME)
        for name, declared in fields.declared_within(cls).items():
            yield f"{section}.{name}", declared
    for section, cls in sections().items():
        for name, declared in fields.declared_within(cls).items():
            yield f"{section}.{name}", declared


def _section(cls: type, **first: str) -> ConfigDict:
    section = ConfigDict(first)
    for name, (kind, value, _) in fields.declared(cls).items():
        section[name] = _placed(kind, value)
    for name, inner in fields.sections(cls).items():
        section[name] = _section(inner)
    return section


def _put(config: ConfigDict, path: str, value: Any) -> None:
    """Sets SECTION.FIELD of a config."""
    *sections, field = path.split(".")
    for section in sections:
        config = config[section]
    config[field] = value


def _placed(kind: Any, value: Any) -> Any:
    """None as a placeholder, which keeps the type that the field may have."""
    if value is None:
        return config_dict.placeholder(fields.without_none(kind))
    return value


def _checked(where: str, value: Any, kind: Any, bounds: Bounds) -> Any:
    fields.check(where, value, kind, bounds)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and fields.without_none(kind) is float else value


def _values(where: str, cls: type, section: ConfigDict) -> dict[str, Any]:
    return {
        name: _checked(f"{where}.{name}", section[name], kind, bounds)
        for name, (kind, _, bounds) in fields.declared(cls).items()
    } | {
        name: _instance(f"{where}.{name}", inner, section[name])
        for name, inner in fields.sections(cls).items()
    }


def _instance(where: str, cls: type, section: ConfigDict) -> Any:
    values = _values(where, cls, section)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"config.{error}") from error


def _built(config: ConfigDict, section: str, known: Mapping[str, type]) -> Any:
    """The network, process or sampler itself."""
    given = config[section]
    if given.name not in known:
        raise UserError(unknown(f"config.{section}.name", given.name, known))
    cls = known[given.name]
    values = _values(f"config.{section}", cls, given)
    if section == "network":
        values["dtype"] = config.dtype
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.{section}: {reason}") from error


def _check_taps(config: ConfigDict, network: Network) -> None:
    """Raises a UserError for a tap that the network does not have."""
    network.check_self_condition("config.network.self_condition")
    known = network.tap_paths()
    for path, given in _taps(config):
        for tap in (given,) if isinstance(given, str) else given:
            if tap and tap not in known:
                raise UserError(unknown(f"config.{path}", tap, known))


def _taps(config: ConfigDict) -> list[tuple[str, str | tuple[str, ...]]]:
    """(path, value) of every field that names taps, beside those of the network."""
    flat = plain.flatten(config.to_dict())
    return [
        (path, flat[path])
        for path, _ in _declared(config)
        if path.endswith(("tap", "taps")) and not path.startswith("network.")
    ]


def _check_together(values: Mapping[str, Any]) -> None:
    """What two sections must agree about."""
    train, network = values["train"], values["network"]
    if train.augment_probability > 0 and network.augment_channels != 9:
        raise UserError(
            "config.train.augment_probability: the EDM augmentation needs a network "
            f"with augment_channels=9, this one has {network.augment_channels}"
        )
    try:
        values["sampler"].check(values["process"])
    except UserError as error:
        raise UserError(f"config.sampler: {error}") from error
