"""The fields of the tasks that evaluate a denoiser, with their defaults."""

from collections.abc import Callable

from ml_collections import ConfigDict

SECTIONS: dict[str, Callable[[], ConfigDict]] = {}
"""Name of the section -> function that makes it; in the order of --help."""


def shrink(config: ConfigDict) -> None:
    """Sets the fields of these tasks as a `:test` variant has them."""
