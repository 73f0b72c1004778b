"""The devices."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """How devices share the work."""

    fsdp: int = setting(
        1,
        "devices that share the parameters; the others repeat them",
        least=1,
        most=1 << 20,
    )
    tensor: int = setting(
        1,
        "devices that share every attention and MLP of a transformer, and its images; "
        "of one process",
        least=1,
        most=1024,
    )
