"""The autoencoder beside a denoiser of latents, as the task import leaves it."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ddae_jax.data.form import Scale
from ddae_jax.errors import UserError
from ddae_jax.features.latents import Latents
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.runtime import identity
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


def read_network(path: pathlib.Path, dtype: str) -> AutoencoderKL:
    """Reads what network it is, under the computation's `dtype`.

    Raises:
      UserError: its config.json is damaged.
    """
    try:
        saved = json.loads((path / "config.json").read_text())[NAME]
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        return AutoencoderKL(**fields, dtype=jnp.dtype(dtype))
    except (FileNotFoundError, KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(f"{path}: config.json is not an autoencoder's: {e}") from e


def identity_of(network: AutoencoderKL, params: Mapping) -> str:
    """Changes when latents may, by content, whatever computes them."""
    plain = network.clone(dtype=jnp.float32, attention_implementation=None)
    return identity.of(network=plain, weights=identity.of_tree(params))


def load(
    section: AutoencoderSettings,
    dtype: str,
    path: pathlib.Path,
    latent_shape: Sequence[int],
    trained_on: Mapping[str, Any] | None = None,
) -> tuple[Latents, dict]:
    """Reads an autoencoder.

    Args:
      dtype: of the computation.
      path: as `find` gives it.
      latent_shape: (rows, columns, channels) that the denoiser takes.
      trained_on: what data.json says of the latents that the denoiser was trained on:
        identity of their autoencoder, scale and shift; None: it says nothing.

    Returns:
      what belongs together, and the parameters on the host.

    Raises:
      UserError: its files do not go together, or not with the denoiser.
    """
    network = read_network(path, dtype)
    scale = network.scaling_factor if section.scale is None else section.scale
    shift = ()
    if trained_on is not None:
        scale, shift = _normalisation(trained_on)
        if section.scale not in (None, scale):
            raise UserError(
                f"config.autoencoder.scale: {section.scale}, but the denoiser was "
                f"trained on latents scaled by {scale}"
            )
    try:
        latents = Latents(
            network,
            tuple(latent_shape),
            scale,
            section.sample_posterior,
            section.batch_size,
            shift,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    shapes = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, *latents.image_shape))
    )["params"]
    params = weights_folder.read_parameters(path, shapes)
    if trained_on is not None:
        check(network, params, path, str(trained_on.get("autoencoder")))
    return latents, params


def check(
    network: AutoencoderKL, params: Mapping, path: pathlib.Path, made_by: str
) -> None:
    """Raises a UserError where latents were made by another autoencoder.

    Args:
      made_by: the identity of theirs.
    """
    if identity_of(network, params) != made_by:
        raise UserError(
            f"{path}: not the autoencoder that made the latents which the denoiser is "
            "trained on"
        )


def _normalisation(trained_on: Mapping[str, Any]) -> tuple[Scale, tuple[float, ...]]:
    def number(value):
        if isinstance(value, list | tuple):
            return tuple(float(one) for one in value)
        return float(value)

    try:
        return number(trained_on["scale"]), tuple(map(float, trained_on["shift"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"data.json: damaged: latents: {error!r}") from error
