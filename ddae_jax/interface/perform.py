"""Runs tasks in a workdir: for the command line and for Python alike."""

from collections.abc import Callable, Sequence

from absl import logging

from ddae_jax.experiment import Experiment
from ddae_jax.runtime import parallel, workdirs
from ddae_jax.settings import command_line
from ddae_jax.tasks import TASKS


def perform(
    command: command_line.Command,
    tasks: Sequence[str],
    first: Callable[[Experiment], None] = lambda experiment: None,
) -> Experiment:
    """Runs `tasks` one after the other, alone in the workdir.

    Args:
      command: what is saved in the workdir.
      first: is done before them.

    Returns the experiment as the last of them left it; of a workdir on an object store
    its own is the working copy on this machine.

    Raises:
      UserError: one line for the user.
    """
    with workdirs.opened(command.workdir) as workdir:
        command_line.save(command, workdir)
        experiment = Experiment(command.settings, workdir)
        first(experiment)
        for name in tasks:
            logging.info("task %s in %s", name, command.workdir)
            experiment = TASKS[name].load()(experiment) or experiment
            parallel.all_processes(True)  # what process 0 wrote is there for the next
        return experiment
