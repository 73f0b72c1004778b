"""Watches features while they are trained: how far they spread, whether they collapse.

The contrastive term can be met by features that are all alike; a run that ends there
has trained for nothing.
"""

import jax.numpy as jnp
import numpy as np
from absl import logging

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import Encoder, encode_set
from ddae_jax.metrics.effective_rank import effective_rank
from ddae_jax.train.objectives.base import Watch
from ddae_jax.train.plan import Every, Hook, Measured

_IMAGES = 512


class Collapsed(UserError):
    """Features have become alike."""


def hook(experiment: Experiment, name: str, watch: Watch, source: Source) -> Hook:
    """Measures a tap with every row of metrics.

    The first training images, at the parameters being trained: NAME/effective_rank, and
    NAME/spread, the mean squared distance from their mean.

    Args:
      name: of the objective.

    Raises (when called):
      Collapsed: the effective rank is below `collapse_rank`, where the run is to stop;
        else that is said once.
    """
    denoiser, mesh = experiment.denoiser, experiment.mesh
    tap = watch.tap
    images = data_source.first(source, min(_IMAGES, len(source)))
    level = jnp.array([watch.noise_level], jnp.float32)
    time = float(denoiser.process.time_at(level)[0])
    key = experiment.stream("train/watch")
    batch_size = experiment.settings.train.batch_size
    told = False

    def call(state, step):
        nonlocal told
        encoder = Encoder(denoiser, (tap,))
        (found,) = encode_set(
            encoder, state.params, mesh, images, [time], key, batch_size
        )
        features = found[tap]
        rank = effective_rank(features)
        spread = float(np.var(features, axis=0).sum())
        if rank < watch.collapse_rank and not told:
            told = True
            message = (
                f"{name}: the features of {tap} have collapsed at step {step}: "
                f"effective rank {rank:.2f}, below config.objectives.{name}."
                f"collapse_rank {watch.collapse_rank}"
            )
            if watch.stop:
                raise Collapsed(message)
            logging.warning("%s", message)
        return Measured({f"{name}/effective_rank": rank, f"{name}/spread": spread})

    return Hook(Every(experiment.settings.train.log_every), call)
