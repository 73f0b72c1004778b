"""Features for every position of an image, and features batch by batch."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax import compiler, parallel
from ddae_jax.data import augment
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.features import (
    Encode,
    Images,
    evaluation_inputs,
    example_noise,
    extract,
    noise_shape,
)


def grid(
    tap: Float[Array, "batch ..."], image_size: tuple[int, int], extra_tokens: int = 0
) -> Float[Array, "batch rows columns channels"]:
    """Gives a tap the layout of the image, in float32.

    Args:
      tap: (batch, rows, columns, channels), or (batch, tokens, channels) with the
        image's tokens row by row.
      image_size: (height, width), of whose proportions the grid is.
      extra_tokens: leading tokens that stand for no part of the image.

    Raises:
      UserError: the tokens do not fill a grid of these proportions.
    """
    if tap.ndim == 4:
        return tap.astype(jnp.float32)
    tokens = tap[:, extra_tokens:].astype(jnp.float32)
    height, width = image_size
    count = tokens.shape[1]
    rows = round(math.sqrt(count * height / width))
    columns = count // max(rows, 1)
    if rows * columns != count or rows * width != columns * height:
        raise UserError(f"{count} tokens are no grid over {height}x{width} pixels")
    return tokens.reshape(len(tokens), rows, columns, -1)


@dataclasses.dataclass(frozen=True)
class GridEncoder:
    """Taps per position: tap -> (batch, rows, columns, channels)."""

    denoiser: Denoiser
    taps: tuple[str, ...]

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Float[Array, ""]
    ) -> dict[str, Array]:
        taps = extract(self.denoiser, params, x0, time, noise, self.taps, pooled=False)
        extra = getattr(self.denoiser.network, "extra_tokens", 0)
        return {name: grid(tap, x0.shape[1:3], extra) for name, tap in taps.items()}


@functools.cache
def program(encode: Encode):
    """Compiles `encode` of uint8 images: (params, images, indices, time, key) -> it.

    Image i gets the noise of (key, i). Equal encoders share one program.
    """

    def run(params, images, indices, time, key):
        noise = example_noise(key, indices, noise_shape(encode, images.shape[1:]))
        return encode(params, augment.to_float(images), noise, time)

    return jax.jit(run, compiler_options=compiler.options())


def device_batches(
    encode: Encode,
    params: dict,
    mesh: Mesh,
    source: Source,
    time: float,
    key: PRNGKeyArray,
    batch_size: int,
) -> Iterator[tuple[Array, Array, dict[str, Array]]]:
    """Yields (indices, valid, name -> features) of a source, split over the mesh.

    The last batch is filled up, with what is not valid. Image i gets the noise of
    (key, i).

    Args:
      params: replicated over the mesh.
      time: the process's own.
      batch_size: over all devices, a multiple of their number.
    """
    run = program(encode)
    for images, _, indices, valid in evaluation_inputs(source, mesh, batch_size):
        yield indices, valid, run(params, images, indices, jnp.float32(time), key)


def encode_batches(
    encode: Encode,
    params: dict,
    mesh: Mesh,
    source: Source,
    time: float,
    key: PRNGKeyArray,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields (indices, name -> features) of a source in order, as numpy arrays.

    Memory is that of two batches, whatever the source's size. Nothing is dropped: the
    last batch is shorter. Arguments as for `device_batches`.
    """
    waiting = None
    # One batch behind, so that the device works while the next one is read.
    for batch in device_batches(encode, params, mesh, source, time, key, batch_size):
        if waiting is not None:
            yield _on_host(*waiting)
        waiting = batch
    yield _on_host(*waiting)


def _on_host(indices, valid, outputs):
    indices, valid, outputs = parallel.on_host((indices, valid, outputs))
    return indices[valid], {name: value[valid] for name, value in outputs.items()}
