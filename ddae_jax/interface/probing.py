"""A probe from Python: of what a workdir names, or of arrays."""

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from ddae_jax.data import arrays, source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.interface.labels import Labelled, together
from ddae_jax.settings import schema
from ddae_jax.settings.fields import declared, unknown
from ddae_jax.settings.probe import ProbeSettings
from ddae_jax.tasks import probe
from ddae_jax.tasks.probe.table import heat_map, table


@dataclasses.dataclass(frozen=True, repr=False)
class ProbeResult:
    """What a probe found.

    Attributes:
      report: all figures, as probe.json has them.
    """

    report: Mapping[str, Any]

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The cell that held-out images chose: "tap", "noise_level", "test", ..."""
        return self.report["chosen"]

    @property
    def accuracy(self) -> float:
        """In [0, 1], of the chosen cell, on the test images."""
        return self.chosen["test"]

    @property
    def tap(self) -> str:
        """Of the chosen cell."""
        return self.chosen["tap"]

    @property
    def noise_level(self) -> float:
        """Of the chosen cell."""
        return self.chosen["noise_level"]

    def table(self) -> str:
        """All cells, as probe.txt has them."""
        return table(self.report)

    def plot(self) -> Figure:
        """Test accuracy by tap and noise level."""
        return heat_map(self.report)

    def __repr__(self) -> str:
        return f"<ProbeResult: {probe.summary(self.report)}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


def probe_workdir(experiment: Experiment, fields: Mapping[str, Any]) -> ProbeResult:
    """Runs the task probe, which writes its files into the workdir.

    Args:
      fields: of config.probe.

    Raises:
      UserError: as the task.
    """
    experiment = _with(experiment, fields)
    probe.run(experiment)
    name = f"{experiment.settings.probe.output}.json"
    return ProbeResult(experiment.read_json(name))


def probe_arrays(
    experiment: Experiment,
    trained: Trained,
    train: Labelled,
    test: Labelled,
    fields: Mapping[str, Any],
) -> ProbeResult:
    """Probes `trained` on images of the caller's; leaves no files.

    Args:
      fields: of config.probe.

    Raises:
      UserError: as the task; or the arrays are no labelled images.
    """
    experiment = _with(experiment, {"cache": False} | dict(fields))
    data = experiment.settings.data
    parts, names = together({"train": train, "test": test})
    opened = {
        (split, data): source.from_arrays(
            arrays.NAME,
            split,
            images,
            labels,
            names,
            data.image_size,
            data.channels,
            data.resident_bytes,
            data.resize,
        )
        for split, (images, labels) in parts.items()
    }
    own = dataclasses.replace(experiment, opened=opened)
    return ProbeResult(probe.measure(own, trained))


def _with(experiment: Experiment, fields: Mapping[str, Any]) -> Experiment:
    known = declared(ProbeSettings)
    for name in fields:
        if name not in known:
            raise UserError(unknown("probe: field", name, known))
    settings = schema.changed(experiment.settings, {}, {"probe": dict(fields)})
    return dataclasses.replace(experiment, settings=settings)
