"""What Inception sees of an image: the published ways of resizing and scaling.

They give different FIDs for the same images, so the mode is named beside every number.

* "pytorch": pytorch-fid. Bilinear, half-pixel centres, no antialiasing; x / 127.5 - 1.
* "tf1": TensorFlow 1's FID, ADM and EDM. Bilinear without half-pixel centres;
  (x - 128) / 128.
* "clean": clean-fid (Parmar et al. 2022). Pillow's antialiased bicubic in float32,
  clipped to [0, 255]; (x - 128) / 128.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ddae_jax.errors import UserError
from ddae_jax.models.inception import IMAGE_SIZE, PRECISION, InceptionV3, Outputs


def _bilinear(size: int, half_pixel: bool) -> np.ndarray:
    offset = 0.5 if half_pixel else 0.0
    place = (np.arange(IMAGE_SIZE) + offset) * (size / IMAGE_SIZE) - offset
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(int)
    matrix = np.zeros((IMAGE_SIZE, size))
    rows = np.arange(IMAGE_SIZE)
    np.add.at(matrix, (rows, low), 1 - (place - low))
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), place - low)
    return matrix


def _bicubic_antialiased(size: int) -> np.ndarray:
    """Keys' kernel with a = -1/2, widened when it shrinks, as in Pillow."""
    scale = size / IMAGE_SIZE
    widen = max(scale, 1.0)
    centres = (np.arange(IMAGE_SIZE)[:, None] + 0.5) * scale
    pixels = np.arange(size)
    distance = np.abs((pixels + 0.5 - centres) / widen)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


_MATRICES = {
    "pytorch": lambda size: _bilinear(size, half_pixel=True),
    "tf1": lambda size: _bilinear(size, half_pixel=False),
    "clean": _bicubic_antialiased,
}
MODES = tuple(_MATRICES)


def inception_input(
    images: UInt8[Array, "batch height width channels"]
    | Float[Array, "batch height width channels"],
    mode: str,
) -> Float[Array, "batch 299 299 3"]:
    """Resizes and scales `images` for Inception.

    Args:
      images: in [0, 255]; one channel (repeated) or three.
      mode: one of MODES.

    Raises:
      UserError: an unknown mode, or another number of channels.
    """
    if mode not in _MATRICES:
        raise UserError(f"resize mode {mode!r} is unknown; known: {', '.join(MODES)}")
    _, height, width, channels = images.shape
    if channels not in (1, 3):
        raise UserError(f"Inception takes 1 or 3 channels, not {channels}")
    x = images.astype(jnp.float32)
    for axis, size in ((2, width), (1, height)):
        if size != IMAGE_SIZE:
            matrix = jnp.asarray(_MATRICES[mode](size), jnp.float32)
            resized = jnp.tensordot(x, matrix, ((axis,), (1,)), precision=PRECISION)
            x = jnp.moveaxis(resized, -1, axis)
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    if mode == "pytorch":
        return x / 127.5 - 1
    if mode == "clean":
        x = jnp.clip(x, 0, 255)
    return (x - 128) / 128


def inception_outputs(
    params: dict,
    images: UInt8[Array, "batch height width channels"]
    | Float[Array, "batch height width channels"],
    mode: str,
    images_at_once: int | None = None,
) -> Outputs:
    """Returns Inception's features and logits of `images`.

    Args:
      params: of `InceptionV3`.
      images: in [0, 255]; one channel or three.
      mode: one of MODES.
      images_at_once: a loop over so many images at a time, inside the program. On a
        CPU, 1 is about 1.4 times faster than a whole batch of 8: what a layer writes
        is still in the cache when the next one reads it. None (whole batches) is for
        accelerators, and for batches that are sharded over devices: a loop over a
        sharded axis would run every image everywhere.

    Raises:
      UserError: an unknown mode, or another number of channels.
    """

    def apply(batch):
        return InceptionV3().apply({"params": params}, inception_input(batch, mode))

    if images_at_once is None:
        return apply(images)

    def apply_to_one(image):
        return jax.tree.map(lambda array: array[0], apply(image[None]))

    return jax.lax.map(apply_to_one, images, batch_size=images_at_once)
