"""The page about a workdir."""

import dataclasses

from ddae_jax.settings.fields import setting


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What the task report shows beside the workdir."""

    compare: str = setting(
        "", "workdirs of other runs, shown beside this one: A or A,B"
    )
