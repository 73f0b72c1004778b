"""Augmentation of batches on the accelerator: pure functions with static shapes.

Randomness comes as one key per example, folded from the example's global position, so
that an image is treated alike however the batch is sharded.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num, PRNGKeyArray, UInt8


def example_keys(
    key: PRNGKeyArray, positions: Int[Array, "batch"]
) -> Key[Array, "batch"]:
    """Returns one key per example, from its position in the global order.

    A key is good for one function: give each of them its own `key`.
    """
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)


def to_float(
    images: UInt8[Array, "batch height width channels"]
    | Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Maps uint8, 0..255, to [-1, 1]. Floats are x0 already, and pass."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(
    images: Float[Array, "batch height width channels"],
) -> UInt8[Array, "batch height width channels"]:
    """Maps [-1, 1] to 0..255, clipped and rounded."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def coins(keys: Key[Array, "batch"]) -> Bool[Array, "batch"]:
    """Tosses a fair coin for each example."""
    return jax.vmap(jax.random.bernoulli)(keys)


def flip(
    chosen: Bool[Array, "batch"], images: Num[Array, "batch height width channels"]
) -> Num[Array, "batch height width channels"]:
    """Mirrors the chosen images left to right. Any number type."""
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def random_flip(
    keys: Key[Array, "batch"], images: Num[Array, "batch height width channels"]
) -> Num[Array, "batch height width channels"]:
    """Mirrors each image left to right with probability 1/2. Any number type."""
    return flip(coins(keys), images)


def random_crop(
    keys: Key[Array, "batch"],
    images: Num[Array, "batch height width channels"],
    padding: int = 4,
) -> Num[Array, "batch height width channels"]:
    """Shifts each image by up to `padding` pixels each way; zeros come in.

    As torchvision's RandomCrop(size, padding) does on pixels: zero is black, so crop
    before `to_float`. Any number type.
    """
    margins = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = jnp.pad(images, margins)

    def crop(key, image):
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


def random_erasing(
    keys: Key[Array, "batch"],
    images: UInt8[Array, "batch height width channels"],
    probability: float,
) -> UInt8[Array, "batch height width channels"]:
    """Puts random pixels into a rectangle of some images.

    Random erasing (Zhong et al. 2017, arXiv 1708.04896, algorithm 1): it covers 2 to
    40 % of the image, its height is 0.3 to 1/0.3 times its width. Where such a one is
    larger than the image, it is cut off.
    """
    height, width = images.shape[1:3]

    def erase(key, image):
        chosen, area_key, aspect_key, place_key, pixels_key = jax.random.split(key, 5)
        area = jax.random.uniform(area_key, (), minval=0.02, maxval=0.4)
        # As in the publication: uniform in the ratio itself, not in its logarithm.
        aspect = jax.random.uniform(aspect_key, (), minval=0.3, maxval=1 / 0.3)
        tall = jnp.minimum(jnp.sqrt(area * height * width * aspect), height)
        wide = jnp.minimum(jnp.sqrt(area * height * width / aspect), width)
        top, left = jax.random.uniform(place_key, (2,))
        top, left = top * (height - tall), left * (width - wide)
        y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        inside &= jax.random.bernoulli(chosen, probability)
        pixels = jax.random.randint(pixels_key, image.shape, 0, 256, jnp.int32)
        return jnp.where(inside[..., None], pixels.astype(jnp.uint8), image)

    return jax.vmap(erase)(keys, images)
