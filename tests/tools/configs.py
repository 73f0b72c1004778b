"""Configs of the project by name, as the command line reads them."""

import pathlib

from ml_collections import ConfigDict

from ddae_jax.settings import config_files

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"


def load(given: str) -> ConfigDict:
    """The config NAME or NAME:VARIANT."""
    name, _, variant = given.partition(":")
    return config_files.load(f"{CONFIGS / name}.py:{variant}")
