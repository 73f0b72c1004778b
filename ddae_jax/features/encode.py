"""From images to features: noise, one forward pass, taps, a mean over positions."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment, batches
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import compiler, parallel

Images = Float[Array, "batch height width channels"]
Encode = Callable[[dict, Images, Images, Float[Array, ""]], dict[str, Array]]
"""(params, x0, noise, time) -> name -> features (batch, features): what heads take."""


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


def pool(tap: Float[Array, "batch ..."], extra_tokens: int = 0) -> Array:
    """Means over positions, float32: (batch, ..., channels) -> (batch, channels).

    Args:
      tap: (batch, height, width, channels) or (batch, tokens, channels).
      extra_tokens: leading tokens that stand for no part of the image.
    """
    if tap.ndim == 3:
        tap = tap[:, extra_tokens:]
    return tap.astype(jnp.float32).mean(axis=tuple(range(1, tap.ndim - 1)))


def positions(tap: Float[Array, "batch ..."], extra_tokens: int = 0) -> Array:
    """The vectors that `pool` would average: (batch, positions, channels), float32.

    Args:
      tap: as for `pool`.
      extra_tokens: likewise.
    """
    if tap.ndim == 3:
        tap = tap[:, extra_tokens:]
    return tap.astype(jnp.float32).reshape(len(tap), -1, tap.shape[-1])


def extract(
    denoiser: Denoiser,
    params: dict,
    x0: Images,
    time: Float[Array, ""] | Float[Array, "batch"] | float,
    noise: Images,
    taps: Sequence[str],
    pooled: bool = True,
    dropout_key: PRNGKeyArray | None = None,
) -> dict[str, Array]:
    """Features of clean images: add noise, run the network without labels, read taps.

    One forward pass serves all taps; under jit, layers behind the deepest are dropped.

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
    """`extract` of some taps as the function that heads take.

    Equal encoders are one to jit: trained and untrained parameters share a program.

    Attributes:
      pooled: the means over positions; else all positions.
    """

    denoiser: Denoiser
    taps: tuple[str, ...]
    pooled: bool = True

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Float[Array, ""]
    ) -> dict[str, Array]:
        """Returns tap -> (batch, features), or (batch, positions, features)."""
        outputs = extract(
            self.denoiser, params, x0, time, noise, self.taps, self.pooled
        )
        if self.pooled:
            return outputs
        extra = self.denoiser.network.extra_tokens
        return {name: positions(tap, extra) for name, tap in outputs.items()}


def pixels(params: dict, x0: Images, noise: Images, time: Array) -> dict[str, Array]:
    """The baseline's features: the clean image itself, under the name "pixels"."""
    return {"pixels": x0.reshape(len(x0), -1)}


def pixels_as_position(
    params: dict, x0: Images, noise: Images, time: Array
) -> dict[str, Array]:
    """`pixels` for heads that attend: the image is its only position."""
    return {"pixels": x0.reshape(len(x0), 1, -1)}


@functools.lru_cache(maxsize=32)
def compiled(encode: Encode) -> Encode:
    """`encode` under jit: one program for all times, and for equal encoders.

    Names keep their order, which jit would sort.
    """
    names = []

    def values(params, x0, noise, time):
        outputs = encode(params, x0, noise, time)
        names[:] = outputs
        return tuple(outputs.values())

    program = jax.jit(values, compiler_options=compiler.compiler_options())

    def run(params, x0, noise, time):
        found = program(params, x0, noise, time)
        return dict(zip(names, found, strict=True))

    return run


def evaluation_inputs(
    source: Source, mesh: Mesh, batch_size: int, start: int = 0
) -> Iterator[
    tuple[
        UInt8[Array, "batch height width channels"],
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


def noise_shape(
    encode: Encode, image_shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Shape of the noise that `encode` takes for one image: the image's own, unless
    `encode` says another, as encoders of latents do."""
    own = getattr(encode, "noise_shape", None)
    return tuple(image_shape) if own is None else own(image_shape)


@functools.partial(jax.jit, static_argnames="shape")
def clean_and_noise(
    images: UInt8[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    key: PRNGKeyArray,
    shape: tuple[int, int, int],
) -> tuple[Images, Images]:
    """Images in [-1, 1], and noise of `shape` that (key, index) gives each of them."""
    return augment.to_float(images), example_noise(key, indices, shape)


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
      params: replicated over the mesh.
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
    shape = noise_shape(encoders[0][0], source.image_shape)
    inputs = evaluation_inputs(source, mesh, batch_size, start)
    for number, (images, _, indices, _) in enumerate(inputs):
        x0, noise = clean_and_noise(images, indices, key, shape)
        outputs = [
            compiled(encode)(params, x0, noise, jnp.float32(time))
            for encode, time in encoders
        ]
        # One batch behind, so that the device works while the next one is read.
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
      params: replicated over the mesh.
      times: the process's own.
      batch_size: over all devices, a multiple of their number.

    Returns:
      for each time, name -> float32 (len(source), features).
    """
    parts = [[] for _ in times]
    encoders = [(encode, time) for time in times]
    for _, outputs in encode_batches(encoders, params, mesh, source, key, batch_size):
        for part, output in zip(parts, outputs, strict=True):
            part.append(output)
    return [
        {name: np.concatenate([p[name] for p in part]) for name in part[0]}
        for part in parts
    ]


def extract_set(
    denoiser: Denoiser,
    params: dict,
    mesh: Mesh,
    source: Source,
    taps: Sequence[str],
    times: Sequence[float],
    key: PRNGKeyArray,
    batch_size: int,
) -> list[dict[str, Float[np.ndarray, "count features"]]]:
    """`encode_set` of a denoiser's pooled taps: one forward pass per image and time."""
    encode = Encoder(denoiser, tuple(taps))
    return encode_set(encode, params, mesh, source, times, key, batch_size)
