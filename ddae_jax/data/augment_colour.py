"""Brightness, contrast, saturation, hue and grey of images with values in [0, 1].

The definitions are those of Pillow's ImageEnhance and of torchvision's ColorJitter,
which the augmentations of SimCLR and MoCo are made of, on real numbers instead of
bytes. Every function treats each image of a batch by itself, with a factor of its own,
and gives values in [0, 1] back.

Grey is ITU-R 601's luma, as Pillow has it: 0.299 red + 0.587 green + 0.114 blue.
(torchvision's own tensors weigh red by 0.2989, so that white comes out as 0.9999.)
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

_LUMA = (0.299, 0.587, 0.114)


def draw_jitter(
    keys: Key[Array, "batch"],
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Float[Array, "batch 4"]:
    """Draws the factors of `jitter`, each uniform over its range.

    The first three lie in 1 - strength .. 1 + strength, none below 0; the last, a turn
    of the hue, in -hue .. hue.
    """
    strengths = (brightness, contrast, saturation)
    low = jnp.array([*(max(0.0, 1 - strength) for strength in strengths), -hue])
    high = jnp.array([*(1 + strength for strength in strengths), hue])

    def draw(key: Key[Array, ""]) -> Float[Array, "4"]:
        return jax.random.uniform(key, (4,), minval=low, maxval=high)

    return jax.vmap(draw)(keys)


def jitter(
    images: Float[Array, "batch height width channels"],
    factors: Float[Array, "batch 4"],
) -> Float[Array, "batch height width channels"]:
    """Changes brightness, contrast, saturation and hue, in this order.

    ColorJitter draws the order anew for each image. A fixed one is what a compiled
    program can have without computing all of them. Images of one channel have neither
    saturation nor hue: the last two factors are ignored.
    """
    images = adjust_brightness(images, factors[:, 0])
    images = adjust_contrast(images, factors[:, 1])
    if images.shape[-1] == 3:
        images = adjust_saturation(images, factors[:, 2])
        images = adjust_hue(images, factors[:, 3])
    return images


def adjust_brightness(
    images: Float[Array, "batch height width channels"], factor: Float[Array, "batch"]
) -> Float[Array, "batch height width channels"]:
    """Multiplies by the factor: 0 is black, 1 the image."""
    return _blend(images, jnp.zeros_like(images), factor)


def adjust_contrast(
    images: Float[Array, "batch height width channels"], factor: Float[Array, "batch"]
) -> Float[Array, "batch height width channels"]:
    """Moves away from the image's mean luma: 0 is that grey, 1 the image."""
    mean = grey(images).mean((1, 2, 3), keepdims=True)
    return _blend(images, mean, factor)


def adjust_saturation(
    images: Float[Array, "batch height width 3"], factor: Float[Array, "batch"]
) -> Float[Array, "batch height width 3"]:
    """Moves away from the pixel's own luma: 0 is the grey image, 1 the image."""
    return _blend(images, grey(images), factor)


def adjust_hue(
    images: Float[Array, "batch height width 3"], turn: Float[Array, "batch"]
) -> Float[Array, "batch height width 3"]:
    """Turns the hue of HSV (Smith 1978); a turn of 1 is the whole circle.

    Value and saturation stay, so a pixel's largest and smallest channel stay too.
    """
    red, green, blue = jnp.moveaxis(images, -1, 0)
    value = images.max(-1)
    chroma = value - images.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)  # grey pixels have no hue: any will do
    sector = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(
            value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )
    sector = sector + 6 * turn[:, None, None]
    # Each channel is a trapezium over the circle, a third of a turn from the next: for
    # red, `value` within one sector of 0, `value - chroma` beyond two.
    distance = sector[..., None] - jnp.array([0.0, 2.0, 4.0])
    distance = distance - 6 * jnp.round(distance / 6)
    lack = jnp.clip(jnp.abs(distance) - 1, 0, 1)
    return jnp.clip(value[..., None] - chroma[..., None] * lack, 0, 1)


def grey(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Gives all three channels the luma; images of one channel are grey already."""
    if images.shape[-1] == 1:
        return images
    # A product, not a sum of slices: XLA on CPUs would compute what leads here thrice.
    luma = jnp.einsum(
        "bhwc,c->bhw", images, jnp.array(_LUMA), precision=lax.Precision.HIGHEST
    )
    return jnp.broadcast_to(jnp.clip(luma, 0, 1)[..., None], images.shape)


def _blend(images, others, factor):
    """Others at factor 0, images at 1, beyond them above 1; clipped to [0, 1]."""
    factor = factor[:, None, None, None]
    return jnp.clip(factor * images + (1 - factor) * others, 0, 1)
