"""From images to features: noise, one forward pass, taps, a mean over positions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from ddae_jax.data import augment, batches
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.models.pooling import pool, positions
from ddae_jax.runtime import compiler, log, parallel

Images = Float[Array, "batch height width channels"]
Times = Float[Array, ""] | Float[Array, "batch"] | float
"""The process's own, of all images or of each."""


class Encode(Protocol):
    """What gives heads their features: frozen and hashable, its parameters apart.

    Equal ones share one compiled program.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, in the order in which they are given."""

    def select(self, names: tuple[str, ...]) -> "Encode":
        """The same encoder of other features, or of none."""

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the noise that one image of `image_shape` takes."""

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Times
    ) -> dict[str, Array]:
        """Name -> features, float32 (batch, features), of images `x0` in [-1, 1] under
        standard normal `noise`."""


def example_noise(
    key: PRNGKeyArray,
    positions: Int[Array, "batch"],
    shape: tuple[int, int, int],
) -> Images:
    """Draws standard normal noise, one image per example.

    It depends on `key` (of the seed and the draw) and the example's position alone, not
    on the batch, the devices or the time: all noise levels of an image see one draw.

    Args:
      positions: global index of each example.
      shape: (height, width, channels).
    """
    keys = augment.example_keys(key, positions)
    return jax.vmap(lambda example: jax.random.normal(example, shape))(keys)


def extract(
    denoiser: Denoiser,
    params: dict,
    x0: Images,
    time: Times,
    noise: Images,
    taps: Sequence[str],
    pooled: bool = True,
    dropout_key: PRNGKeyArray | None = None,
) -> dict[str, Array]:
    """Features of clean images: add noise, run the network without labels, read taps.

    Pure, for use inside jit: one forward pass serves all taps, and XLA drops the layers
    after the deepest.

    Args:
      x0: in [-1, 1].
      time: the process's own, of all images or of each.
      noise: standard normal.
      pooled: average over positions; else the taps as they are.
      dropout_key: given, the network is in training mode.

    Returns:
      tap -> (batch, features) in float32, or the whole tap.

    Raises:
      UserError: the network has no tap of that name.
    """
    time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (len(x0),))
    x_t = denoiser.process.add_noise(x0, noise, time)
    outputs = denoiser.taps(params, x_t, time, taps, dropout_key=dropout_key)
    if not pooled:
        return outputs
    extra = denoiser.network.extra_tokens
    return {name: pool(tap, extra) for name, tap in outputs.items()}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """`extract` of some taps as an `Encode`.

    Trained and untrained parameters share its program.

    Attributes:
      pooled: the means over positions; else all positions.
    """

    denoiser: Denoiser
    taps: tuple[str, ...]
    pooled: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The taps."""
        return self.taps

    def select(self, names: tuple[str, ...]) -> "Encoder":
        """The same of other taps."""
        return dataclasses.replace(self, taps=names)

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The image's own."""
        return tuple(image_shape)

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Times
    ) -> dict[str, Array]:
        """Returns tap -> (batch, features), or (batch, positions, features)."""
        outputs = extract(
            self.denoiser, params, x0, time, noise, self.taps, self.pooled
        )
        if self.pooled:
            return outputs
        extra = self.denoiser.network.extra_tokens
        return {name: positions(tap, extra) for name, tap in outputs.items()}


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The baseline: the clean image itself, under the name "pixels".

    Attributes:
      pooled: (batch, values); else the image is its only position, for heads that
        attend.
    """

    pooled: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """One."""
        return ("pixels",)

    def select(self, names: tuple[str, ...]) -> "Pixels":
        """It has no others."""
        return self

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The image's own; it is not used."""
        return tuple(image_shape)

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Times
    ) -> dict[str, Array]:
        """Returns the pixels' values; `params`, `noise` and `time` are not used."""
        pattern = "b h w c -> b (h w c)" if self.pooled else "b h w c -> b 1 (h w c)"
        return {"pixels": rearrange(x0, pattern)}


def run(
    encode: Encode, params: dict, x0: Images, noise: Images, time: Times
) -> dict[str, Array]:
    """`encode` compiled: one program for all times, and for equal encoders.

    The names are in the encoder's order, which jit would sort.
    """
    found = _run(encode, params, x0, noise, jnp.asarray(time, jnp.float32))
    return {name: found[name] for name in encode.names}


@compiler.jit(static_argnames=("encode",))
def _run(encode, params, x0, noise, time):
    return encode(params, x0, noise, time)


@compiler.jit(static_argnames=("shape",))
def clean_and_noise(
    images: Num[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    key: PRNGKeyArray,
    shape: tuple[int, int, int],
) -> tuple[Images, Images]:
    """Images in [-1, 1], and noise of `shape` that (key, index) gives each of them."""
    return augment.to_float(images), example_noise(key, indices, shape)


def evaluation_inputs(
    source: Source, mesh: Mesh, batch_size: int, start: int = 0
) -> Iterator[
    tuple[
        Num[Array, "batch height width channels"],
        Int[Array, "batch"],
        Int[Array, "batch"],
        Bool[Array, "batch"],
    ]
]:
    """Yields (images, labels, indices, valid) of a whole source, split over the mesh.

    Every process reads only the images of its own devices.

    Args:
      batch_size: a multiple of the number of devices. The last batch is filled up with
        the last image, marked as not valid.
      start: the images before this one are left out.
    """
    sharding = parallel.batch_sharding(mesh)
    local = batch_size // jax.process_count()
    own = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    for offsets, valid in batches.evaluation_batches(len(source) - start, batch_size):
        indices = offsets + np.int32(start)
        images = jax.make_array_from_process_local_data(
            sharding, source.read(indices[own])
        )
        rest = (source.labels[indices], indices, valid)
        yield images, *(parallel.place(array, sharding) for array in rest)


def encode_batches(
    encoders: Sequence[tuple[Encode, float]],
    params: dict,
    mesh: Mesh,
    source: Source,
    key: PRNGKeyArray,
    batch_size: int,
    start: int = 0,
) -> Iterator[tuple[int, list[dict[str, Float[np.ndarray, "batch features"]]]]]:
    """Yields the features of a source batch by batch; nothing is augmented.

    Args:
      encoders: (encode, the process's own time): one forward pass each, of one noise.
      params: on the mesh, sharded as they are.
      key: image i gets the noise of (key, i).
      batch_size: over all devices, a multiple of their number.
      start: the images before this one are left out.

    Yields:
      (index of the first image, for each encoder name -> float32 features). The last
      batch is short where the images do not fill it.
    """

    def on_host(first, outputs):
        valid = len(source) - first
        return first, [
            {name: value[:valid] for name, value in output.items()}
            for output in parallel.on_host(outputs)
        ]

    waiting = None
    shape = encoders[0][0].noise_shape(source.image_shape)
    inputs = evaluation_inputs(source, mesh, batch_size, start)
    for number, (images, _, indices, _) in enumerate(inputs):
        x0, noise = clean_and_noise(images, indices, key, shape)
        outputs = [run(encode, params, x0, noise, time) for encode, time in encoders]
        # One batch late, so that the device works while the next one is read.
        if waiting is not None:
            yield on_host(*waiting)
        waiting = start + number * batch_size, outputs
    if waiting is not None:
        yield on_host(*waiting)


def encode_set(
    encode: Encode,
    params: dict,
    mesh: Mesh,
    source: Source,
    times: Sequence[float],
    key: PRNGKeyArray,
    batch_size: int,
) -> list[dict[str, Float[np.ndarray, "count features"]]]:
    """Features of every image of a source at every time; nothing is augmented.

    Compiled once, whatever the times. Image i gets the noise of (key, i).

    Args:
      params: on the mesh, sharded as they are.
      times: the process's own.
      batch_size: over all devices, a multiple of their number.

    Returns:
      for each time, name -> float32 (len(source), features).
    """
    parts = [[] for _ in times]
    encoders = [(encode, time) for time in times]
    batches = encode_batches(encoders, params, mesh, source, key, batch_size)
    for _, outputs in log.told("features", len(source), batches):
        for part, output in zip(parts, outputs, strict=True):
            part.append(output)
    return [
        {name: np.concatenate([p[name] for p in part]) for name in encode.names}
        for part in parts
    ]
