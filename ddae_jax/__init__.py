"""Denoising diffusion autoencoders: features and samples from diffusion models."""

from importlib import import_module

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
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str):
    # jax takes seconds to import: only those who use a model pay for it.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
