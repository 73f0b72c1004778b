"""Drawing images."""

import dataclasses
import math

from ddae_jax.errors import UserError
from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What the task sample draws."""

    count: int = setting(64, "images", least=1, most=COUNT, test=8)
    batch_size: int = setting(64, "over all devices", least=1, most=BATCH, test=8)
    grid: int = setting(64, "images in the grid picture", least=0, most=10_000, test=8)
    trajectories: int = setting(
        0,
        "samples of which the estimates on the way are shown",
        least=0,
        most=64,
        test=0,
    )
    interpolations: int = setting(
        0, "pairs of samples of which those between are shown", least=0, most=64, test=0
    )
    frames: int = setting(
        8, "images of a trajectory or an interpolation", least=2, most=64
    )
    png_folder: bool = setting(False, "also write every image as a file")
    label: int = setting(
        -1,
        "class of all samples, if trained with classes; -1: in turn",
        least=-1,
        most=1_000_000,
    )
    guidance_scale: float = setting(
        1.0, "classifier-free guidance; 1: none", least=0, most=1000
    )
    guidance_interval: tuple[float, ...] = setting(
        (0.0, math.inf),
        "noise levels where it acts: lowest, highest",
        least=0,
        most=math.inf,
        lengths=(2, 2),
    )
    guidance_channels: int | None = setting(
        None, "guide the first ones; None: all", least=1, most=65_536
    )

    def __post_init__(self):
        low, high = self.guidance_interval
        if low > high:
            raise UserError(
                f"sample.guidance_interval: {self.guidance_interval} is not (lowest, "
                "highest)"
            )
