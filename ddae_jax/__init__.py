"""Denoising diffusion autoencoders: features and samples from diffusion models."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddae_jax.data.sources import register_source
    from ddae_jax.diffusion import register_process
    from ddae_jax.errors import UserError
    from ddae_jax.heads import register_head
    from ddae_jax.interface.model import Model, load
    from ddae_jax.interface.probing import ProbeResult
    from ddae_jax.interface.runs import pretrain, run
    from ddae_jax.models import register_network
    from ddae_jax.tasks import register_task
    from ddae_jax.train.objectives import register_objective

__version__ = "0.1.0"

_PLACES = {
    "Model": "ddae_jax.interface.model",
    "ProbeResult": "ddae_jax.interface.probing",
    "UserError": "ddae_jax.errors",
    "load": "ddae_jax.interface.model",
    "pretrain": "ddae_jax.interface.runs",
    "register_head": "ddae_jax.heads",
    "register_network": "ddae_jax.models",
    "register_objective": "ddae_jax.train.objectives",
    "register_process": "ddae_jax.diffusion",
    "register_source": "ddae_jax.data.sources",
    "register_task": "ddae_jax.tasks",
    "run": "ddae_jax.interface.runs",
}
__all__ = [
    "Model",
    "ProbeResult",
    "UserError",
    "__version__",
    "load",
    "pretrain",
    "register_head",
    "register_network",
    "register_objective",
    "register_process",
    "register_source",
    "register_task",
    "run",
]


def __getattr__(name: str):
    # jax takes seconds to import: only those who use a model pay for it.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
