"""Features for every position of an image, in the layout of the image."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.data.source import Source
from ddae_jax.features.encode import (
    Encode,
    Images,
    evaluation_inputs,
    example_noise,
)
from ddae_jax.models.pooling import grid
from ddae_jax.runtime import compiler


@dataclasses.dataclass(frozen=True)
class GridEncoder:
    """Features per position: name -> (batch, rows, columns, channels).

    Attributes:
      encode: gives (batch, positions, channels), row by row.
    """

    encode: Encode

    @property
    def names(self) -> tuple[str, ...]:
        """Those of `encode`."""
        return self.encode.names

    def select(self, names: tuple[str, ...]) -> "GridEncoder":
        """The same of other features."""
        return GridEncoder(self.encode.select(names))

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the noise of one image."""
        return self.encode.noise_shape(image_shape)

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Float[Array, ""]
    ) -> dict[str, Array]:
        """Returns the features in the layout of the images."""
        found = self.encode(params, x0, noise, time)
        return {name: grid(value, x0.shape[1:3]) for name, value in found.items()}


@compiler.jit(static_argnames=("encode",))
def run_on_images(
    encode: Encode,
    params: dict,
    images: UInt8[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    time: Float[Array, ""],
    key: PRNGKeyArray,
) -> dict[str, Array]:
    """`encode` of images, compiled; image i gets the noise of (key, indices[i])."""
    noise = example_noise(key, indices, encode.noise_shape(images.shape[1:]))
    return encode(params, augment.to_float(images), noise, time)


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
      params: on the mesh, sharded as they are.
      time: the process's own.
      batch_size: over all devices, a multiple of their number.
    """
    time = jnp.float32(time)
    for images, _, indices, valid in evaluation_inputs(source, mesh, batch_size):
        yield indices, valid, run_on_images(encode, params, images, indices, time, key)
