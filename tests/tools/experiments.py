"""Experiments out of the configs that tests edit."""

import pathlib

from ml_collections import ConfigDict

from ddae_jax.experiment import Experiment
from ddae_jax.settings import schema


def experiment_of(config: ConfigDict, workdir: str | pathlib.Path = ".") -> Experiment:
    """What the command line makes of a config and a workdir."""
    return Experiment(schema.build(config), pathlib.Path(workdir))
