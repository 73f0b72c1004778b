"""Weights & Biases beside TensorBoard: a run there for a folder here.

What fails there is told once and ends no training.
"""

import json
import pathlib
import uuid
from typing import Any

import numpy as np
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.runtime.files import read_json, replacing

FILE = "wandb.json"
"""Keeps the run's id: a folder that is gone on with goes on there, too."""
_SECONDS = 30  # of waiting for the service


def check(project: str) -> None:
    """Raises a UserError where a project is named and the library is not there."""
    if not project:
        return
    try:
        import wandb  # noqa: F401
    except ImportError as error:
        raise UserError(
            'config.train.wandb: needs wandb: pip install "ddae_jax[wandb]"'
        ) from error


class WandbRun:
    """One run of Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: pathlib.Path, project: str):
        import wandb

        self._wandb, self._folder = wandb, folder
        self._run = self._tried(lambda: self._open(project))

    def _open(self, project: str):
        path = self._folder / FILE
        known = (read_json(path) or {}).get("id")
        name = known if isinstance(known, str) else uuid.uuid4().hex[:12]
        run = self._wandb.init(
            project=project,
            id=name,
            name=self._folder.resolve().name,
            resume="allow",
            dir=str(self._folder),
            config=read_json(self._folder / "config.json") or {},
            settings=self._wandb.Settings(
                init_timeout=_SECONDS, silent=True, console="off"
            ),
        )
        with replacing(path) as part:
            part.write_text(json.dumps({"project": project, "id": name}))
        return run

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs scalars; steps that a resumed run repeats are not logged twice."""
        self._tried(lambda: self._run.log(values, step=step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs a uint8 (height, width, channels) image."""
        self._tried(lambda: self._run.log({name: self._wandb.Image(image)}, step=step))

    def close(self) -> None:
        """Ends the run."""
        self._tried(lambda: self._run.finish())

    def _tried(self, call) -> Any:
        """What `call` returns; after a failure nothing is called any more."""
        if getattr(self, "_run", self) is None:
            return None
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            logging.warning("wandb: %s; the run goes on without it", reason)
            self._run = None
            return None
