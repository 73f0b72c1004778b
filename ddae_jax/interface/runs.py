"""Runs from Python: the tasks of the command line, and pre-training on arrays."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from ddae_jax.data import arrays
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.interface import model, requests
from ddae_jax.interface.labels import Labelled, Numbered, together
from ddae_jax.interface.perform import perform
from ddae_jax.runtime import checkpoint, files, processes


def run(
    tasks: str | Sequence[str] = (),
    *,
    config: str | os.PathLike | None = None,
    workdir: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs tasks of the command line: `--task=TASKS --config=CONFIG ...`.

    Args:
      tasks: names, or one; none: those of the config.
      config: a file, or the name of one of the project's, as in "cifar10:edm_ddpmpp";
        None goes by what the workdir holds.
      workdir: of the run; None is runs/NAME-VARIANT.
      settings: "section.field" -> value, as in {"probe.times": (1, 11)}.

    Returns:
      for each JSON file of results that the tasks wrote, its name without the ending
      -> its content.

    Raises:
      UserError: one line that says what cannot be used.
    """
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    command = requests.command_of(config, workdir, names, settings or {})
    before = {}

    def note(experiment):
        before.update(_written(experiment.workdir))

    after = _written(perform(command, command.tasks, note).workdir)
    changed = [path for path, time in after.items() if before.get(path) != time]
    return {path.stem: files.read_object(path) for path in changed}


def pretrain(
    images: UInt8[np.ndarray, "count height width channels"] | Source | None = None,
    labels: Shaped[np.ndarray, "count"] | Sequence[Any] | None = None,
    *,
    test: Labelled | None = None,
    config: str | os.PathLike = "digits",
    steps: int | None = None,
    workdir: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "model.Model":
    """Trains a denoiser, or goes on with what `workdir` holds.

    The workdir is one of the command line: all its tasks go on from there. Images that
    are given are kept in it, for them.

    Args:
      images: uint8, one or three channels; or a source whose images are in memory;
        None: the data set of the config.
      labels: numbers or names of their classes; training itself needs none unless
        train.class_conditional is set.
      test: (images, labels) that tasks of the workdir test on; training takes none.
      config: a file, or the name of one of the project's, as in "cifar10:ddpm".
      steps: of the optimiser, over all calls; None: as the config has it.
      workdir: None is runs/NAME-VARIANT.
      settings: "section.field" -> value, as in {"train.batch_size": 64}.

    Raises:
      UserError: one line that says what cannot be used; the workdir was trained on
        other images.
    """
    settings = dict(settings or {})
    if steps is not None:
        settings["train.steps"] = steps
    if images is None:
        if labels is not None or test is not None:
            raise UserError("labels, test: give the images that they belong to")
        command = requests.command_of(config, workdir, ("pretrain",), settings)
        return model.load(perform(command, command.tasks).workdir)
    splits, class_names = _splits(images, labels, test)
    settings |= {"data.name": arrays.NAME, "data.folder": ""}
    if "data.channels" not in settings:
        channels = splits["train"][0].shape[-1]
        settings.setdefault("network.image_channels", channels)
    command = requests.command_of(config, workdir, ("pretrain",), settings)
    done = perform(
        command,
        command.tasks,
        lambda experiment: _keep(experiment, splits, class_names),
    )
    return model.load(done.workdir)


def _splits(
    images: UInt8[np.ndarray, "count height width channels"] | Source,
    labels: Shaped[np.ndarray, "count"] | Sequence[Any] | None,
    test: Labelled | None,
) -> tuple[dict[str, Numbered], tuple[str, ...]]:
    """ "train" and, where it is given, "test", and the names of the classes."""
    if isinstance(images, Source):
        if labels is not None or test is not None:
            raise UserError("labels, test: a source has its own")
        images.check_images()
        if images.images is None:
            raise UserError(
                f"images: {images.name} is read while training: give it a name by "
                "ddae_jax.register_source, and that name as data.name"
            )
        return {"train": (images.images, images.labels)}, images.class_names
    if labels is None:
        if test is not None:
            raise UserError("test: give the labels of the training images, too")
        labels = np.zeros(len(images), np.int32)
    given = {"train": (images, labels)}
    return together(given if test is None else given | {"test": test})


def _keep(
    experiment: Experiment,
    splits: Mapping[str, Numbered],
    class_names: tuple[str, ...],
) -> None:
    """Writes the images into the workdir, unless they are there; process 0 does."""

    trained = checkpoint.has_any(experiment.workdir)

    def keep():
        folder = experiment.workdir / arrays.NAME
        path = folder / "train_images.npy"
        kept = files.map_array(path) if path.exists() else None
        same = kept is not None and np.array_equal(kept, splits["train"][0])
        if not same and trained:
            raise UserError(
                f"{experiment.workdir} was trained on other images; name another "
                "workdir"
            )
        for split, (images, labels) in splits.items():
            arrays.write(folder, split, images, labels, class_names)

    processes.on_first(keep)


def _written(workdir):
    """JSON files of results -> when they were written."""
    return {
        path: path.stat().st_mtime_ns
        for path in workdir.glob("*.json")
        if path.name not in ("config.json", "data.json")
    }
