"""Serves a page, on this machine alone, on which taps are looked at with any image."""

import importlib.util
import typing

import jax
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.tasks.explore import panel
from ddae_jax.tasks.explore.explorer import Explorer
from ddae_jax.tasks.explore.uploads import Uploads
from ddae_jax.tasks.predict import head as predict_head
from ddae_jax.tasks.predict.head import Predictor

if typing.TYPE_CHECKING:
    from starlette.types import ASGIApp

_NEEDED = ("starlette", "uvicorn")


def run(experiment: Experiment) -> None:
    """Serves the page at config.explore.port of 127.0.0.1 until a signal comes.

    Raises:
      UserError: no checkpoint; images that the network does not take; several
        processes; the extra `explore` is not installed, or the port is taken.
      KeyboardInterrupt: Ctrl-C, or another signal that ends a run.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UserError(
            "--task=explore needs starlette and uvicorn: "
            'pip install "ddae_jax[explore]"'
        )
    if jax.process_count() > 1:
        raise UserError(
            "--task=explore takes one process, and this run has "
            f"{jax.process_count()}; it uses all devices of its machine"
        )
    from ddae_jax.tasks.explore import serving

    # Before what takes long: the port may be taken.
    with serving.listen(experiment.settings.explore.port) as listening:
        serving.serve(served(experiment), listening)


def served(experiment: Experiment) -> "ASGIApp":
    """The page and what it asks for, ready to be served.

    Raises:
      UserError: see `run`.
    """
    from ddae_jax.tasks.explore import application

    explorer = open_explorer(experiment)
    uploads = Uploads(experiment, explorer.trained)
    page = panel.render(experiment, explorer)
    return application.application(explorer, uploads, page)


def open_explorer(experiment: Experiment) -> Explorer:
    """Opens checkpoint, images and head, and compiles what the page will ask for.

    Raises:
      UserError: see `run`.
    """
    logging.info("explore: opening; compiling takes a while")
    predictor = _predictor(experiment)
    trained = experiment.trained() if predictor is None else predictor.trained
    explorer = Explorer(experiment, trained, predictor)
    logging.info(
        "explore: %d taps at %d noise levels, beside %d %s",
        len(explorer.taps),
        len(explorer.levels),
        len(explorer.references.names),
        explorer.references.what,
    )
    first = explorer.chosen.source.read([0])[0]
    explorer.explored(first, explorer.opened_at, explorer.cell.tap)
    return explorer


def _predictor(experiment: Experiment) -> Predictor | None:
    """The head of `predict`, where the workdir was probed or has one."""
    files = ("probe.json", predict_head.FILE)
    if not any((experiment.workdir / name).is_file() for name in files):
        return None
    try:
        return predict_head.load(experiment.changed("predict", head="probe"))
    except UserError as error:
        logging.warning("explore: no probabilities of classes: %s", error)
        return None
