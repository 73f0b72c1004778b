"""Images as networks that were trained on ImageNet by torchvision's recipes take them.

In [0, 1], minus the mean and over the standard deviation of ImageNet's pixels. Nothing
is resized.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ddae_jax.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def imagenet_input(
    images: UInt8[Array, "batch height width channels"]
    | Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width 3"]:
    """Returns the images in float32, normalised.

    Args:
      images: uint8, or x0 in [-1, 1]; red, green and blue, or one channel, which is
        repeated.

    Raises:
      UserError: another number of channels.
    """
    if images.shape[-1] not in (1, 3):
        raise UserError(f"images have 1 or 3 channels, not {images.shape[-1]}")
    x = images.astype(jnp.float32)
    is_x0 = jnp.issubdtype(images.dtype, jnp.floating)
    x = (x + 1) / 2 if is_x0 else x / 255
    return (x - jnp.asarray(MEAN)) / jnp.asarray(STANDARD_DEVIATION)
