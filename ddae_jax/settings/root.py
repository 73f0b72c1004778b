"""All settings of a run: the sections, and what stands above them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddae_jax.settings.autoencoder import AutoencoderSettings
from ddae_jax.settings.checkpoint import CheckpointSettings
from ddae_jax.settings.contrastive import ContrastiveSettings
from ddae_jax.settings.data import DataSettings
from ddae_jax.settings.dense import DenseSettings
from ddae_jax.settings.diagnose import DiagnoseSettings
from ddae_jax.settings.encode import EncodeSettings
from ddae_jax.settings.explore import ExploreSettings
from ddae_jax.settings.export import ExportSettings
from ddae_jax.settings.fid import FidSettings
from ddae_jax.settings.fields import setting
from ddae_jax.settings.finetune import FinetuneSettings
from ddae_jax.settings.import_weights import ImportSettings
from ddae_jax.settings.mesh import MeshSettings
from ddae_jax.settings.noisy_classifier import NoisyClassifierSettings
from ddae_jax.settings.predict import PredictSettings
from ddae_jax.settings.preflight import PreflightSettings
from ddae_jax.settings.probe import ProbeSettings
from ddae_jax.settings.profile import ProfileSettings
from ddae_jax.settings.reid import ReidSettings
from ddae_jax.settings.report import ReportSettings
from ddae_jax.settings.sample import SampleSettings
from ddae_jax.settings.source_search import SourceSearchSettings
from ddae_jax.settings.track import TrackSettings
from ddae_jax.settings.train import TrainSettings

CHOSEN = ("network", "process", "sampler")
"""Sections that hold the fields of what their `name` names."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is to do, checked.

    Attributes:
      network, process, sampler: the objects themselves, built from their sections.
      names: what configs call those three: section -> name.
      others: sections whose fields depend on what is registered: "objectives", and
        those of tasks from outside, by the task's name.
    """

    name: str = setting(
        "run", "names the default workdir", pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
    )
    variant: str = setting("", "of the config", pattern=r"[A-Za-z0-9_.+-]{0,100}")
    tasks: tuple[str, ...] = setting(
        ("pretrain", "sample", "probe", "report"), "run in this order", lengths=(1, 64)
    )
    imports: tuple[str, ...] = setting(
        (), "modules to import first, which register networks, data sets, tasks"
    )
    seed: int = setting(0, "of all random streams", least=0, most=2**31 - 1)
    dtype: str = setting(
        "float32", "of the computation", choices=("float32", "bfloat16")
    )
    network: Any = None
    process: Any = None
    sampler: Any = None
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    source_search: SourceSearchSettings = SourceSearchSettings()
    profile: ProfileSettings = ProfileSettings()
    mesh: MeshSettings = MeshSettings()
    preflight: PreflightSettings = PreflightSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    sample: SampleSettings = SampleSettings()
    probe: ProbeSettings = ProbeSettings()
    fid: FidSettings = FidSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    track: TrackSettings = TrackSettings()
    diagnose: DiagnoseSettings = DiagnoseSettings()
    dense: DenseSettings = DenseSettings()
    predict: PredictSettings = PredictSettings()
    explore: ExploreSettings = ExploreSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    noisy_classifier: NoisyClassifierSettings = NoisyClassifierSettings()
    reid: ReidSettings = ReidSettings()
    report: ReportSettings = ReportSettings()
    import_weights: ImportSettings = ImportSettings()
    export: ExportSettings = ExportSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    encode: EncodeSettings = EncodeSettings()
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and variant, for people."""
        return " ".join(part for part in (self.name, self.variant) if part)

    def section(self, name: str) -> Any:
        """The section of this name, whichever of the two it is."""
        return self.others[name] if name in self.others else getattr(self, name)
