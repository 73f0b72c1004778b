"""Gaussian paths from images to noise, and the samplers that run them backwards."""

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM

PROCESSES = {"ddpm": DDPM, "edm": EDM}
"""Name in a config -> class; the class's fields are the config's fields."""
