"""Features of a user's images: numpy arrays in batches, jax arrays as they are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ddae_jax.data import augment
from ddae_jax.errors import UserError
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import Encode, Encoder, example_noise
from ddae_jax.interface import batches, checked
from ddae_jax.interface.checked import Images
from ddae_jax.runtime import compiler, parallel
from ddae_jax.settings.fields import unknown

Features = (
    Float[np.ndarray, "n *positions features"] | Float[Array, "n *positions features"]
)


def features(
    trained: Trained,
    images: Images | Num[Array, "n height width channels"],
    names: Sequence[str],
    time: Float[Array, ""],
    key: PRNGKeyArray,
    batch_size: int,
    pooled: bool,
) -> dict[str, Features]:
    """Returns name -> features; "out_1+out_2" is both, joined.

    Args:
      time: the process's own.
      key: image i gets the noise of (key, i).
      batch_size: of numpy arrays; jax arrays take one pass.
      pooled: the means over positions.

    Raises:
      UserError: there is no such tap, or joined taps are not pooled; the images are
        none that the model takes.
    """
    parts = {name: name.split("+") for name in names}
    known = tuple(trained.denoiser.network.tap_paths())
    taps = tuple(dict.fromkeys(part for each in parts.values() for part in each))
    if not taps:
        raise UserError("tap: none is named")
    for tap in taps:
        if tap not in known:
            raise UserError(unknown("tap", tap, known))
    if not pooled and len(taps) > len(parts):
        raise UserError("tap: joined taps take pooled=True")
    encode: Encode = Encoder(trained.denoiser, taps, pooled)
    params = trained.params
    if checked.are_encoded(trained, np.shape(images)):
        encode, params = trained.encoder(taps, pooled), trained.variables
    if isinstance(images, jax.Array):
        found = _of_jax(encode, trained, params, images, time, key)
    else:
        found = _of_numpy(encode, trained, params, images, time, key, batch_size)
    array = jnp if isinstance(images, jax.Array) else np
    return {
        name: array.concatenate([found[tap] for tap in joined], axis=-1)
        for name, joined in parts.items()
    }


def _of_numpy(encode, trained, params, images, time, key, batch_size):
    images = checked.checked(trained, "images", images, clean=True)
    outputs = [
        parallel.on_host(_encoded(encode, params, batch, indices, time, key))
        for batch, indices in batches.placed(trained.mesh, images, batch_size)
    ]
    return {
        tap: np.concatenate([output[tap] for output in outputs])[: len(images)]
        for tap in encode.names
    }


def _of_jax(encode, trained, params, images, time, key):
    checked.check_shape(trained, "images", images.shape, clean=True)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images: type {images.dtype}; give uint8 or floats in [-1, 1]")
    # In the caller's program: options of the compiler are the caller's, too.
    call = _encode if isinstance(images, jax.core.Tracer) else _encoded
    return call(encode, params, images, jnp.arange(len(images)), time, key)


def _encode(
    encode: Encode,
    params: dict,
    images: Num[Array, "batch height width channels"],
    indices: Int[Array, "batch"],
    time: Float[Array, ""],
    key: PRNGKeyArray,
) -> dict[str, Array]:
    x0 = augment.to_float(images) if images.dtype == jnp.uint8 else images
    _, height, width, channels = images.shape
    shape = encode.noise_shape((height, width, channels))
    noise = example_noise(key, indices, shape)
    return encode(params, x0, noise, time)


_encoded = compiler.jit(static_argnames=("encode",))(_encode)
