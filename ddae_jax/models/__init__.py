"""Denoising networks by the name that a config gives them."""

from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT

NETWORKS = {
    "unet": UNet,
    "songunet": SongUNet,
    "edm2": EDM2UNet,
    "uvit": UViT,
    "dit": DiT,
    "lightningdit": LightningDiT,
}
"""Name in a config -> flax module; its fields are the config's fields."""
