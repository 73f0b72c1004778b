"""Gaussian paths from images to noise, and the samplers that run them backwards."""

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.dit_process import LearnedVarianceDDPM
from ddae_jax.diffusion.dit_sampler import respaced
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.flow_samplers import flow_euler, flow_heun
from ddae_jax.diffusion.samplers import ddim, ddpm_ancestral, edm_heun

PROCESSES = {"ddpm": DDPM, "edm": EDM, "flow": Flow, "dit": LearnedVarianceDDPM}
"""Name in a config -> class; the class's fields are the config's fields."""

SAMPLERS = {
    "ddpm": {"ancestral": ddpm_ancestral, "ddim": ddim},
    "edm": {"heun": edm_heun},
    "flow": {"euler": flow_euler, "heun": flow_heun},
    "dit": {"respaced": respaced},
}
"""Name of a process -> name of a sampler in a config -> function."""
