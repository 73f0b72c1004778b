"""The data set."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import COUNT


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are brought to one size."""

    name: str = setting("digits", "a key of data.SOURCES, or tfds:NAME")
    folder: str = setting("", "where the files are; empty: the set's own default")
    image_size: int | None = setting(
        None, "side in pixels; None: as it is", least=1, most=4096, test=8
    )
    resize: str = setting(
        "bicubic",
        "how images get another size; area: the mean over the area of each new pixel",
        choices=("bicubic", "area"),
    )
    channels: int | None = setting(
        None, "convert to 1 (grey) or 3 (RGB); None: as it is", least=1, most=3
    )
    resident_bytes: int = setting(
        1 << 30, "sets up to this size live on the accelerator", least=0, most=COUNT
    )
    threads: int = setting(8, "that decode larger sets", least=0, most=1024)
