"""The command line: python -m ddae_jax.main --config=configs/digits.py"""

import gc
import pathlib
import sys

from absl import flags

from ddae_jax.runtime import exits


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags beside --config.FIELD."""
    texts = {
        "config": "FILE[:VARIANT] with get_config.",
        "workdir": "Results; default runs/NAME-VARIANT.",
        "task": "Comma-separated; default: the config's.",
        "coordinator": "HOST:PORT of process 0, or auto.",
        "local_devices": "GPUs of this process: 0,1; default: all.",
    }
    for name, help in texts.items():
        flags.DEFINE_string(name, None, help, flag_values=values)
    for name, help in (("process_count", "Of this run."), ("process_index", "Of it.")):
        flags.DEFINE_integer(name, None, help, flag_values=values)
    flags.DEFINE_bool("preflight", False, "Before the tasks.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)


def help_text() -> str:
    """What --help prints; nothing here imports jax."""
    from ddae_jax.tasks import TASKS

    values = flags.FlagValues()
    define_flags(values)
    tasks = "\n".join(f"  {name}: {task.help}" for name, task in TASKS.items())
    fields = pathlib.Path(__file__).parent / "settings" / "help.txt"
    return "\n\n".join(
        (__doc__, f"Tasks:\n{tasks}", values.get_help(), fields.read_text())
    )


def run(argv: list[str]) -> None:
    """Runs the tasks that the command line names.

    Raises:
      UserError: one line for the user.
    """
    from ddae_jax.runtime import joining, log, program_cache
    from ddae_jax.settings import command_line

    log.to_stderr()
    program_cache.prepare()
    command = command_line.parse(argv, define_flags)
    given, asked = command.flags, command.settings.preflight
    joining.join(
        given.coordinator,
        given.process_count,
        given.process_index,
        given.local_devices,
        hosts=asked.hosts,
        seconds=asked.join_seconds,
    )
    from ddae_jax.interface.perform import perform

    perform(command, ("preflight",) * given.preflight + command.tasks)


def main(argv: list[str] | None = None) -> None:
    """Entry point: exit status 2 and one line where the user's input cannot be used."""
    exits.prepare()
    gc.set_threshold(100_000)  # tracing makes many objects that stay
    argv = sys.argv if argv is None else argv
    flags.FLAGS.mark_as_parsed()  # absl's own flags: we parse ours
    try:
        print(help_text()) if {"--help", "-h"} & set(argv[1:]) else run(argv)
    except KeyboardInterrupt as stop:
        exits.interrupted(stop)
    except Exception as error:
        from ddae_jax.runtime import ending

        ending.fail(error)


if __name__ == "__main__":
    main()
