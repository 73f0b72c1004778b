"""The page on which a workdir is explored."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT


@dataclasses.dataclass(frozen=True)
class ExploreSettings:
    """What the task explore serves, on this machine alone."""

    port: int = setting(0, "of 127.0.0.1; 0: one that is free", least=0, most=65535)
    images: str = setting(
        "", "a file or folder, in place of the data set: to choose from, and references"
    )
    taps: tuple[str, ...] = setting((), "shown; empty: all", lengths=(0, 1000))
    count: int = setting(
        24, "test images to choose from, spread over the set", least=1, most=500, test=6
    )
    references: int = setting(
        256,
        "training images, spread over the set, of components, clusters and neighbours",
        least=1,
        most=COUNT,
        test=32,
    )
    clusters: int = setting(6, "of k-means", least=2, most=1000, test=3)
    neighbours: int = setting(8, "among the references", least=1, most=100, test=4)
    batch_size: int = setting(64, "over all devices", least=1, most=BATCH, test=16)
