"""From the words of the command line to a checked config and a workdir."""

import copy
import dataclasses
import itertools
import pathlib
import re
import shlex
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddae_jax.data import image_folder
from ddae_jax.errors import UserError
from ddae_jax.runtime import processes, workdirs
from ddae_jax.runtime.object_store import is_url
from ddae_jax.settings import config_files, plain, saved, schema
from ddae_jax.settings.fields import unknown
from ddae_jax.settings.root import CHOSEN, Settings

_CONFIG = "--config."
# Tasks whose commands make the experiment what it is; flags of the others are theirs.
_MAKERS = ("pretrain", "import")


@dataclasses.dataclass(frozen=True)
class Command:
    """What the user asked for.

    Attributes:
      settings: checked.
      tasks: to run now; settings.tasks where none was named.
      workdir: a folder, or the URL of one on an object store; may not exist yet.
      flags: the values of main's own flags.
      words: of the command line that says the same.
    """

    settings: Settings
    tasks: tuple[str, ...]
    workdir: str
    flags: flags.FlagValues
    words: tuple[str, ...]


def parse(argv: Sequence[str], define: Callable[[flags.FlagValues], None]) -> Command:
    """Reads the command line.

    Args:
      argv: sys.argv.
      define: function that defines main's own flags on a FlagValues.

    Raises:
      UserError: one line that names what cannot be used.
    """
    values = flags.FlagValues()
    define(values)
    try:
        rest = values([word for word in argv if not word.startswith(_CONFIG)])
    except flags.Error as error:
        raise UserError(str(error).split("\n")[0]) from error
    if len(rest) > 1:
        raise UserError(f"unknown word {rest[1]!r}; flags begin with --")
    config_files.import_plugins()
    given = [word for word in argv if word.startswith(_CONFIG)]
    imports = f"{_CONFIG}imports="
    for word in given:
        if word.startswith(imports):
            config_files.import_modules(word.removeprefix(imports).split(","))
    tasks = tuple(values.task.split(",")) if values.task else ()
    # Before what is saved is read, because the file may register what that names.
    config = config_files.load(values.config) if values.config else None
    with workdirs.seen(values.workdir or "") as seen:
        return _command(values, tasks, config, given, seen, tuple(argv[1:]))


def _command(
    values: flags.FlagValues,
    tasks: tuple[str, ...],
    config: ConfigDict | None,
    given: Sequence[str],
    seen: pathlib.Path,
    words: tuple[str, ...],
) -> Command:
    """What is asked for, given what the workdir tells of an earlier run.

    Args:
      config: of the config file, if one was named.
      given: words --config.FIELD=VALUE.
      seen: the workdir, where one was named.
      words: all of the command line.
    """
    earlier = saved.read(seen) if values.workdir else None
    config = config or _start(values, tasks, earlier)
    schema.complete(config)  # what is saved may register, too
    if "import" in tasks:  # what an earlier file needed is not this one's
        schema.reset(config, "import_weights")
    config = _override(config, given)
    if config.name == image_folder.NAME:  # one config for everybody's folders
        config.name = _named_by(config.data.folder)
    variant = f"-{config.variant}" if config.variant else ""
    workdir = values.workdir or f"runs/{config.name}{variant}"
    if not values.workdir:
        seen = pathlib.Path(workdir)
        earlier = saved.read(seen)
        schema.complete(config)
    if earlier is not None:
        config = saved.keep_trained(config, earlier, seen)
    _refuse_urls(config)
    settings = schema.build(config, tasks)
    return Command(settings, tasks or settings.tasks, workdir, values, words)


def save(command: Command, workdir: pathlib.Path) -> None:
    """Adds the command to commands.txt, and where it makes the experiment what it is,
    writes config.json; process 0 does.

    Args:
      workdir: the folder of command.workdir on this machine.
    """
    processes.on_first(lambda: _save(command, workdir))


def _save(command: Command, workdir: pathlib.Path) -> None:
    first = not (workdir / saved.FILE).exists()
    if first or set(command.tasks) & set(_MAKERS):
        saved.write(command.settings, workdir)
    with (workdir / "commands.txt").open("a") as lines:
        words = shlex.join(["python", "-m", "ddae_jax.main", *command.words])
        lines.write(f"{words}\n")


def _start(
    values: flags.FlagValues, tasks: Sequence[str], earlier: ConfigDict | None
) -> ConfigDict:
    """The config without a config file, before the command's own fields."""
    if earlier is not None:
        return copy.deepcopy(earlier)
    if "import" in tasks:
        config = schema.default()  # the file says the rest
        config.name = "imported"
        config.tasks = ("import",)
        return config
    if values.workdir and is_url(values.workdir):
        raise UserError(f"--workdir: there is no run in {values.workdir}")
    if values.workdir and not pathlib.Path(values.workdir).is_dir():
        around = pathlib.Path(values.workdir).parent.glob("*")
        beside = [str(path) for path in around if (path / saved.FILE).is_file()]
        if beside:
            raise UserError(unknown("--workdir: folder", values.workdir, beside))
        raise UserError(f"--workdir: there is no folder {values.workdir}")
    raise UserError(
        "--config: name a file, such as configs/digits.py, or give the --workdir of an "
        "earlier run"
    )


def _refuse_urls(config: ConfigDict) -> None:
    """What is read in place, as memory maps and archives are, lies on a disk."""
    for field, value in plain.flatten(config.to_dict()).items():
        if field != "data.folder" and isinstance(value, str) and is_url(value):
            raise UserError(
                f"config.{field}: {value}: --workdir and config.data.folder alone may "
                "be on an object store; copy it to a disk"
            )


def _named_by(folder: str) -> str:
    """The name of a folder, as far as a workdir can be called by it."""
    name = pathlib.Path(folder).resolve().name if folder else ""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.-")[:100]
    return name or image_folder.NAME


def _override(config: ConfigDict, words: Sequence[str]) -> ConfigDict:
    for section in CHOSEN:  # a process brings its sampler
        start = f"{_CONFIG}{section}.name="
        for name in (w.removeprefix(start) for w in words if w.startswith(start)):
            if name != config[section].name:
                schema.select(config, section, name)
    known = plain.flatten(config.to_dict())
    named = [word.removeprefix(_CONFIG).split("=")[0] for word in words]
    for field, word in zip(named, words, strict=True):
        if field not in known:
            raise UserError(unknown(f"--config.{field}: field", field, known))
        if "=" not in word:
            raise UserError(f"{word}: write it as {word}=VALUE")
    values = flags.FlagValues()
    argv = ["main", *words]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(str(error).split("\n")[0][:300]) from error
    for field in named:
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
