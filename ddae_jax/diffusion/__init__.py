"""Gaussian paths from images to noise, and the samplers that lead back."""

from collections.abc import Mapping

from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.ddpm_samplers import DDIM, DDPMAncestral
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.edm_sampler import EDMHeun
from ddae_jax.diffusion.flow import Flow
from ddae_jax.diffusion.flow_samplers import FlowEuler, FlowHeun
from ddae_jax.diffusion.learned_variance import LearnedVarianceDDPM
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.respaced import Respaced
from ddae_jax.diffusion.sampler import Sampler
from ddae_jax.errors import UserError
from ddae_jax.runtime.registry import check_class

PROCESSES: dict[str, type[Process]] = {
    "ddpm": DDPM,
    "edm": EDM,
    "flow": Flow,
    "dit": LearnedVarianceDDPM,
}
"""Name in a config -> class; the class's fields are the config's fields."""

SAMPLERS: dict[str, dict[str, type[Sampler]]] = {
    "ddpm": {"ddim": DDIM, "ancestral": DDPMAncestral},
    "edm": {"heun": EDMHeun},
    "flow": {"euler": FlowEuler, "heun": FlowHeun},
    "dit": {"respaced": Respaced},
}
"""Name of a process -> name of a sampler in a config -> class; the default first."""


def register_process(
    name: str, process: type[Process], samplers: Mapping[str, type[Sampler]]
) -> None:
    """Makes a process and its samplers known to configs, as `name`.

    Args:
      samplers: name in a config -> class; the first is the default.

    Raises:
      UserError: the name belongs to another process, the class is no whole `Process`,
        or there is no sampler.
    """
    check_class("process", name, process, Process, PROCESSES)
    if not samplers:
        raise UserError(f"process {name!r} has no sampler")
    PROCESSES[name] = process
    SAMPLERS[name] = dict(samplers)
