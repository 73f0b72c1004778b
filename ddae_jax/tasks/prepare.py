"""Downloads and prepares a TFDS data set, which needs TensorFlow and a network."""

from absl import logging

from ddae_jax.data import sources
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import processes


def run(experiment: Experiment) -> None:
    """Prepares config.data.name in config.data.folder, or in TFDS's own folder.

    Process 0 does: with several hosts, the folder must be one that all see.
    """
    name, folder = experiment.settings.data.name, experiment.settings.data.folder
    found = processes.on_first(lambda: str(sources.prepare(name, folder or None)))
    logging.info("%s is prepared in %s", name, found)
