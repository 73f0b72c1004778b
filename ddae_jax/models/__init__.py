"""Denoising networks by the name that a config gives them."""

import inspect

from ddae_jax.errors import UserError
from ddae_jax.models.base import Network
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT

NETWORKS: dict[str, type[Network]] = {
    "unet": UNet,
    "songunet": SongUNet,
    "edm2": EDM2UNet,
    "uvit": UViT,
    "dit": DiT,
    "lightningdit": LightningDiT,
}
"""Name in a config -> flax module; its fields are the config's fields."""


def register_network(name: str, network: type[Network]) -> None:
    """Makes a network known to configs, as `name`.

    A class that is defined again, as when its file is read twice, takes the place of
    the one before.

    Raises:
      UserError: the name belongs to another class, or the class is no whole `Network`.
    """
    if not (inspect.isclass(network) and issubclass(network, Network)):
        raise UserError(f"network {name!r}: {network!r} is no subclass of Network")
    if inspect.isabstract(network):
        missing = ", ".join(sorted(network.__abstractmethods__))
        raise UserError(f"network {name!r}: {network.__name__} lacks {missing}")
    known = NETWORKS.get(name, network)
    if _place(known) != _place(network):
        raise UserError(f"network {name!r} is {known.__name__} already")
    NETWORKS[name] = network


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
