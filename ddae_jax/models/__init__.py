"""Denoising networks by the name that a config gives them."""

from ddae_jax.models.base import Network
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT
from ddae_jax.runtime.registry import check_class

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

    Raises:
      UserError: the name belongs to another class, or the class is no whole `Network`.
    """
    check_class("network", name, network, Network, NETWORKS)
    NETWORKS[name] = network
