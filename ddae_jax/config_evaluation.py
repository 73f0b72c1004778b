"""The fields of the tasks that evaluate a denoiser, with their defaults."""

from collections.abc import Callable

from ml_collections import ConfigDict


def _contrastive() -> ConfigDict:
    contrastive = ConfigDict()
    contrastive.taps = ()  # empty: all
    contrastive.times = (11,)  # in the published convention of the process
    contrastive.noise_levels = ()  # sigma/alpha; instead of times where not empty
    contrastive.steps = ()  # checkpoints; empty: all
    contrastive.count = 50_000  # training images, drawn at random; 0: all
    contrastive.batch_size = 128  # images of which uniformity takes all pairs
    contrastive.forward_batch_size = 128  # images in one forward pass, over all devices
    return contrastive


SECTIONS: dict[str, Callable[[], ConfigDict]] = {
    "contrastive": _contrastive,
}
"""Name of the section -> function that makes it; in the order of --help."""


def shrink(config: ConfigDict) -> None:
    """Sets the fields of these tasks as a `:test` variant has them."""
    config.contrastive.count = 24
    config.contrastive.batch_size = config.contrastive.forward_batch_size = 16
