"""The page about a workdir."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What the task report shows beside the workdir."""

    compare: tuple[str, ...] = setting(
        (), "workdirs of other runs, shown beside this one", lengths=(0, 16)
    )
