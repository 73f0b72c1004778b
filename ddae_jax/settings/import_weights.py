"""Published checkpoints that come in."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """What the task import reads. What is None is asked for where it is needed."""

    path: str = setting("", ".pth, .pt, .pkl or .safetensors")
    family: str = setting("", "a key of weights.FAMILIES; empty: from the tensors")
    weights: str = setting(
        "ema", "which, where the file has both", choices=("ema", "model")
    )
    process: str = setting("", "a key of diffusion.PROCESSES; empty: the family's")
    image_size: int | None = setting(
        None, "height and width in pixels", least=1, most=4096
    )
    heads: int | None = setting(None, "of attention", least=1, most=1024)
    head_channels: int | None = setting(
        None, "of an attention head; None: one head", least=1, most=65_536
    )
    weight_normalization: bool | None = setting(None, "EDM2: E True; C False")
    null_class: bool | None = setting(None, "U-ViT: the last label is no class")
    time_scale: float | None = setting(
        None, "U-ViT: of the network's time", above=0, most=1e6
    )
