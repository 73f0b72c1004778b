"""What a denoiser has learned, without labels."""

import dataclasses

from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import BATCH, COUNT


@dataclasses.dataclass(frozen=True)
class DiagnoseSettings:
    """What the task diagnose measures, on test images."""

    output: str = setting(
        "diagnose",
        "names the files: diagnose or diagnose_NAME",
        pattern=r"diagnose(_[A-Za-z0-9_.-]{1,64})?",
    )
    noise_levels: tuple[float, ...] = setting(
        (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
        "sigma/alpha at which the denoising loss is measured",
        above=0,
        most=1e6,
        lengths=(1, 64),
        test=lambda levels: levels[::4],
    )
    feature_noise: float = setting(
        0.05, "sigma/alpha under which features are taken", above=0, most=1e6
    )
    count: int = setting(2000, "test images used; 0: all", least=0, most=COUNT, test=32)
    batch_size: int = setting(250, "over all devices", least=1, most=BATCH, test=16)
