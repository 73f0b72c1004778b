"""Denoising diffusion autoencoders: features and samples from diffusion models."""

from importlib import import_module

__all__ = ["load"]


def __getattr__(name: str):
    # jax takes seconds to import: only those who load a model pay for it.
    if name == "load":
        return import_module("ddae_jax.experiment.model").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
