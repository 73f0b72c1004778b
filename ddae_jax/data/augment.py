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
