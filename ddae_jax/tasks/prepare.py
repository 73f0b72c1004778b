"""Downloads and prepares a TFDS data set, which needs TensorFlow and a network."""

from absl import logging

from ddae_jax.data import sources
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import processes
from ddae_jax.runtime.object_store import is_url


def run(experiment: Experiment) -> None:
    """Prepares config.data.name in config.data.folder, or in TFDS's own folder.

    Process 0 does: with several hosts, the folder must be one that all see.
    """
    data = experiment.settings.data
    if is_url(data.folder):
        raise UserError(
            f"config.data.folder: {data.folder}: prepare it in a local folder, and "
            "copy that there"
        )
    folder = processes.on_first(
        lambda: str(sources.prepare(data.name, data.folder or None))
    )
    logging.info("%s is prepared in %s", data.name, folder)
