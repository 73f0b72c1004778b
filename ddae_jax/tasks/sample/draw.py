"""The sampler of a config, and the classes of its samples."""

import numpy as np

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.guidance import Guidance
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.latents import Latents
from ddae_jax.generate import Generator


def configured_draw(
    experiment: Experiment,
    denoiser: Denoiser,
    image_shape: tuple[int, int, int],
    latents: Latents | None = None,
) -> Generator:
    """The sampler of the config, as a function of (params, key, indices, labels)."""
    settings = experiment.settings.sample
    if settings.guidance_scale != 1 and (
        not experiment.settings.train.class_conditional
        or denoiser.network.null_label is None
    ):
        raise UserError(
            "config.sample.guidance_scale: needs a network trained with classes "
            'and with "no class"'
        )
    guidance = Guidance(
        settings.guidance_scale,
        *settings.guidance_interval,
        settings.guidance_channels,
    )
    return Generator(
        denoiser, experiment.settings.sampler, image_shape, guidance, latents
    )


def sample_labels(
    experiment: Experiment, indices: np.ndarray, class_count: int
) -> np.ndarray | None:
    """Classes of the samples: config.sample.label, or all in turn; None without."""
    if not experiment.settings.train.class_conditional:
        return None
    label = experiment.settings.sample.label
    if not -1 <= label < class_count:
        raise UserError(
            f"config.sample.label: {label} is no class; known: 0 to {class_count - 1}, "
            "or -1 for all in turn"
        )
    return (indices % class_count if label == -1 else indices * 0 + label).astype(
        np.int32
    )
