"""What a run needs of its machines."""

import dataclasses

from ddae_jax.settings.fields import setting

_MANY = 1 << 20


@dataclasses.dataclass(frozen=True)
class PreflightSettings:
    """What the task preflight holds the machines against.

    `hosts` and `join_seconds` count in every run: they are for how the processes find
    each other.
    """

    processes: int = setting(
        0, "processes that there must be; 0: any number", least=0, most=_MANY
    )
    hosts: int = setting(
        0, "machines that there must be; 0: any number", least=0, most=_MANY
    )
    devices: int = setting(
        0, "devices of all processes that there must be; 0: any", least=0, most=_MANY
    )
    allow_unused: bool = setting(
        False, "accelerators that jax does not use are no mistake"
    )
    join_seconds: int = setting(
        300, "in which the processes must find each other", least=1, most=86_400
    )
    seconds: int = setting(120, "that each check may take", least=1, most=86_400)
    megabytes: int = setting(
        64, "per device, that a timed all-reduce sums", least=1, most=65_536, test=1
    )
    least_bandwidth: float = setting(
        0.0, "of that all-reduce, in GB/s of each device; 0: any", least=0, most=1e6
    )
    clock_seconds: float = setting(
        5.0, "that clocks of two machines may differ", above=0, most=1e6
    )
