"""Denoising diffusion autoencoders: features and samples from diffusion models."""

from importlib import import_module

__version__ = "0.1.0"

_PLACES = {
    "Model": "ddae_jax.experiment.model",
    "UserError": "ddae_jax.errors",
    "load": "ddae_jax.experiment.model",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str):
    # jax takes seconds to import: only those who use a model pay for it.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
