"""Denoising networks by the name that a config gives them."""

from ddae_jax.models.unet import UNet

NETWORKS = {"unet": UNet}
"""Name in a config -> flax module; its fields are the config's fields."""
