"""The jobs of the command line, each a room with `run(experiment)`."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from ddae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """One word of --task.

    Attributes:
      help: what it does, in one line.
      module: has `run(experiment)`; imported when the task runs. It may return another
        experiment, by which the tasks after it go: `import` does.
      section: the dataclass of its settings, of a task from outside this package; those
        of our own tasks are fields of `settings.root.Settings`.
    """

    help: str
    module: str
    section: type | None = None

    def load(self) -> Callable[[Any], Any]:
        """Imports the task, and with it what it alone needs; returns its `run`."""
        return importlib.import_module(self.module).run


_HERE = __name__
TASKS = {
    "preflight": Task("check machines and network", f"{_HERE}.preflight"),
    "prepare": Task("download a TFDS data set", f"{_HERE}.prepare"),
    "import": Task("read a published checkpoint", f"{_HERE}.import_weights"),
    "encode": Task("latents of a data set", f"{_HERE}.encode"),
    "pretrain": Task("train by diffusion, without labels", f"{_HERE}.pretrain"),
    "sample": Task("draw images", f"{_HERE}.sample"),
    "probe": Task("classifiers on frozen features", f"{_HERE}.probe"),
    "contrastive": Task("alignment and uniformity", f"{_HERE}.contrastive"),
    "diagnose": Task("denoising loss, rank of features", f"{_HERE}.diagnose"),
    "dense": Task("maps, neighbours, segmentation", f"{_HERE}.dense"),
    "predict": Task("classes and features of your images", f"{_HERE}.predict"),
    "fid": Task("FID and other distances of samples", f"{_HERE}.fid"),
    "finetune": Task("train the network up to a tap", f"{_HERE}.finetune"),
    "noisy_classifier": Task(
        "classifiers of noisy images", f"{_HERE}.noisy_classifier"
    ),
    "reid": Task("find persons across cameras", f"{_HERE}.reid"),
    "track": Task("probe and FID over the checkpoints", f"{_HERE}.track"),
    "report": Task("one page about all of it", f"{_HERE}.report"),
    "explore": Task("a page on which to look at taps", f"{_HERE}.explore"),
    "export": Task("write the EMA weights", f"{_HERE}.export"),
}
"""Word of --task -> task."""


def register_task(
    name: str, module: str, help: str = "", section: type | None = None
) -> None:
    """Adds a task from another package.

    Args:
      module: name of a module with `run(experiment)`.
      section: frozen dataclass of its settings, the fields made by
        `settings.fields.setting`; `experiment.settings.section(name)` gives it.

    Raises:
      UserError: the name is taken.
    """
    task = Task(help, module, section)
    if TASKS.get(name, task) != task:
        raise UserError(f"there is a task {name!r} already")
    TASKS[name] = task
