"""Downloads and prepares a TFDS data set, which needs TensorFlow and a network."""

import pathlib

from absl import logging
from ml_collections import ConfigDict

from ddae_jax.data import sources


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Prepares config.data.name in config.data.folder, or in TFDS's own folder."""
    del workdir
    folder = sources.prepare(config.data.name, config.data.folder or None)
    logging.info("%s is prepared in %s", config.data.name, folder)
