"""The command line: python -m ddae_jax.main --config=configs/digits.py"""

import pathlib
import sys

from absl import flags, logging

from ddae_jax.errors import UserError
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
    from ddae_jax.runtime import files, joining, log, parallel, program_cache
    from ddae_jax.settings import command_line
    from ddae_jax.tasks import TASKS

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
    from ddae_jax.experiment import Experiment

    with files.only_run_in(command.workdir):
        command_line.save(command)
        experiment = Experiment(command.settings, command.workdir)
        for name in ("preflight",) * given.preflight + command.tasks:
            logging.info("task %s in %s", name, command.workdir)
            experiment = TASKS[name].load()(experiment) or experiment
            parallel.all_processes(True)  # what process 0 wrote is there for the next


def main(argv: list[str] | None = None) -> None:
    """Entry point: exit status 2 and one line where the user's input cannot be used."""
    exits.prepare()
    argv = sys.argv if argv is None else argv
    flags.FLAGS.mark_as_parsed()  # absl's own flags: we parse ours
    try:
        print(help_text()) if {"--help", "-h"} & set(argv[1:]) else run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        exits.leave("interrupted; the same command goes on", 130)
    except Exception as error:
        from ddae_jax.runtime import files

        if not files.disk_is_full(error):
            raise
        exits.leave(f"error: {files.DISK_IS_FULL}", 1)


if __name__ == "__main__":
    main()
