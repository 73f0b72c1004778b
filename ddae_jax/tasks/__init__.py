"""The jobs of the command line, each a module with `run(config, workdir)`."""

import importlib
from types import ModuleType

TASKS = {
    "prepare": "prepare",
    "import": "import_weights",
    "pretrain": "pretrain",
    "sample": "sample",
    "probe": "probe",
    "contrastive": "contrastive",
    "dense": "dense",
    "predict": "predict",
    "fid": "fid",
    "finetune": "finetune",
    "noisy_classifier": "noisy_classifier",
    "track": "track",
    "report": "report",
    "export": "export",
}
"""Name on the command line -> name of the module here."""


def load(name: str) -> ModuleType:
    """Imports a task, and with it what it alone needs."""
    return importlib.import_module(f"{__name__}.{TASKS[name]}")
