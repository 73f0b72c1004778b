"""The autoencoder beside a denoiser of latents, as the task import leaves it."""

import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ddae_jax.errors import UserError
from ddae_jax.features.latents import Latents
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.settings.autoencoder import AutoencoderSettings
from ddae_jax.weights import folder as weights_folder

NAME = "autoencoder"
"""Name of its folder in a workdir, and of its section in the config."""

MISSING = (
    "latents of {channels} channels need their autoencoder: "
    "--task=import --config.import_weights.path=VAE.safetensors with the same "
    "--workdir, or --config.autoencoder.folder"
)


def find(
    section: AutoencoderSettings, workdir: str | pathlib.Path
) -> pathlib.Path | None:
    """Returns its folder: config.autoencoder.folder, else `workdir`/autoencoder.

    None where the latter does not exist.

    Raises:
      UserError: the config names a folder without an autoencoder.
    """
    given = section.folder
    path = pathlib.Path(given) if given else pathlib.Path(workdir) / NAME
    # The task import writes a workdir, whose folder autoencoder is meant.
    for candidate in (path / NAME, path):
        if (candidate / weights_folder.FILE).is_file():
            return candidate
    if given:
        raise UserError(
            f"config.autoencoder.folder: no {weights_folder.FILE} in {given} or its "
            f"folder {NAME}"
        )
    return None


def load(
    section: AutoencoderSettings,
    dtype: str,
    path: pathlib.Path,
    latent_shape: Sequence[int],
) -> tuple[Latents, dict]:
    """Reads an autoencoder.

    Args:
      dtype: of the computation.
      path: as `find` gives it.
      latent_shape: (rows, columns, channels) that the denoiser takes.

    Returns:
      what belongs together, and the parameters on the host.

    Raises:
      UserError: its files do not go together, or not with the denoiser.
    """
    try:
        saved = json.loads((path / "config.json").read_text())[NAME]
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        network = AutoencoderKL(**fields, dtype=jnp.dtype(dtype))
    except (FileNotFoundError, KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{path}: config.json is not an autoencoder's: {e}") from e
    scale = network.scaling_factor if section.scale is None else section.scale
    try:
        latents = Latents(
            network,
            tuple(latent_shape),
            scale,
            section.sample_posterior,
            section.batch_size,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, *latents.image_shape))
    )["params"]
    return latents, weights_folder.read_parameters(path, shapes)
