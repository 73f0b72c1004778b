"""Downloads and prepares a TFDS data set, which needs TensorFlow and a network."""

from absl import logging

from ddae_jax.data import sources
from ddae_jax.experiment import Experiment


def run(experiment: Experiment) -> None:
    """Prepares config.data.name in config.data.folder, or in TFDS's own folder."""
    folder = sources.prepare(
        experiment.settings.data.name, experiment.settings.data.folder or None
    )
    logging.info("%s is prepared in %s", experiment.settings.data.name, folder)
