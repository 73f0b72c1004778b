"""The two compiled passes: of the image that is looked at, and of the references."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.process import per_example
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import Encode, evaluation_inputs, example_noise
from ddae_jax.features.latents import Latents
from ddae_jax.models import pooling
from ddae_jax.runtime import compiler, parallel

Image = UInt8[np.ndarray, "height width channels"]
Kept = tuple[tuple[str, tuple[int, ...]], ...]
"""(tap, which of its positions are fitted) of each tap."""


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What the network makes of one image at one noise level.

    Attributes:
      noisy: what it sees, at unit variance; of latents, decoded.
      denoised: its estimate of the clean image; likewise.
      grids: tap -> features of all positions.
    """

    noisy: Image
    denoised: Image
    grids: Mapping[str, Float[np.ndarray, "rows columns channels"]]


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """What is known of the reference images at one noise level.

    Attributes:
      pooled: tap -> mean over positions of each image.
      points: tap -> features of some positions of all images.
    """

    pooled: Mapping[str, Float[np.ndarray, "count channels"]]
    points: Mapping[str, Float[np.ndarray, "positions channels"]]


def look(
    trained: Trained,
    taps: tuple[str, ...],
    image: Image,
    time: float,
    key: PRNGKeyArray,
) -> Seen:
    """One pass: noise, the estimate and all taps. Compiled once for all times.

    Args:
      image: of `trained.seen_shape`.
      time: the process's own.
      key: every image gets the same noise of it, at every time.

    Raises:
      UserError: positions of a tap have no place in the image.
    """
    # Every device gets a copy where there are several.
    images = np.repeat(image[None], parallel.batch_parts(trained.mesh), axis=0)
    found = _look(
        trained.denoiser,
        trained.latents,
        taps,
        trained.variables,
        parallel.place(images, parallel.batch_sharding(trained.mesh)),
        jnp.float32(time),
        key,
    )
    noisy, denoised, grids = jax.tree.map(
        lambda array: array[0], parallel.on_host(found)
    )
    return Seen(noisy, denoised, {tap: grids[tap] for tap in taps})


@compiler.jit(static_argnames=("denoiser", "latents", "taps"))
def _look(
    denoiser: Denoiser,
    latents: Latents | None,
    taps: tuple[str, ...],
    params: dict,
    images: UInt8[Array, "batch height width channels"],
    time: Float[Array, ""],
    key: PRNGKeyArray,
):
    process, x0 = denoiser.process, augment.to_float(images)
    same = jnp.zeros(len(images), jnp.int32)
    size, show = images.shape[1:3], augment.to_uint8
    if latents is None:
        noise = example_noise(key, same, images.shape[1:])
    else:
        rows, columns, channels = latents.shape
        both = example_noise(key, same, (rows, columns, 2 * channels))
        of_posterior, noise = jnp.split(both, 2, axis=-1)
        autoencoder, params = params["autoencoder"], params["denoiser"]
        x0 = latents.encode(autoencoder, x0, of_posterior)

        def show(x0):
            return latents.decode(autoencoder, x0)

    times = jnp.broadcast_to(time, len(images))
    x_t = process.add_noise(x0, noise, times)
    output, found = denoiser.output_and_taps(params, x_t, times, names=taps)
    norm = jnp.sqrt(process.alpha(times) ** 2 + process.sigma(times) ** 2)
    extra = denoiser.network.extra_tokens
    grids = {
        tap: pooling.grid(pooling.positions(value, extra), size)
        for tap, value in found.items()
    }
    estimate = process.x0(output, x_t, times)
    return show(x_t / per_example(norm, x_t)), show(estimate), grids


def references(
    trained: Trained,
    kept: Kept,
    source: Source,
    time: float,
    key: PRNGKeyArray,
    batch_size: int,
) -> References:
    """The taps of `source` at a time; compiled once for all times.

    Args:
      kept: the taps, and the positions that are kept of them.
      source: image i gets the noise of (key, i).
      batch_size: over all devices, a multiple of their number.
    """
    encode = trained.encoder([tap for tap, _ in kept], pooled=False)
    parts = []
    inputs = evaluation_inputs(source, trained.mesh, batch_size)
    for images, _, indices, valid in inputs:
        found = _some(
            encode, kept, trained.variables, images, indices, jnp.float32(time), key
        )
        shown = parallel.on_host((found, valid))
        parts.append(jax.tree.map(lambda array, keep=shown[1]: array[keep], shown[0]))
    return References(
        {tap: np.concatenate([part[tap][0] for part in parts]) for tap, _ in kept},
        {
            tap: np.concatenate(
                [part[tap][1].reshape(-1, part[tap][1].shape[-1]) for part in parts]
            )
            for tap, _ in kept
        },
    )


@compiler.jit(static_argnames=("encode", "kept"))
def _some(
    encode: Encode,
    kept: Kept,
    params: dict,
    images: UInt8[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    time: Float[Array, ""],
    key: PRNGKeyArray,
):
    noise = example_noise(key, indices, encode.noise_shape(images.shape[1:]))
    found = encode(params, augment.to_float(images), noise, time)
    return {
        tap: (found[tap].mean(axis=1), found[tap][:, np.asarray(chosen)])
        for tap, chosen in kept
    }
