"""What heads on frozen features see in training: augmented images, fresh noise."""

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.features.encode import example_noise

Images = Float[Array, "batch height width channels"]


def augmented_and_noise(
    images: UInt8[Array, "batch height width channels"],
    positions: Int[Array, "batch"],
    key: PRNGKeyArray,
    flip: bool,
    crop: int,
    shape: tuple[int, int, int],
) -> tuple[Images, Images]:
    """Augmented images in [-1, 1], and noise: a function of key and position.

    Args:
      flip: mirror images at random.
      crop: shift them by up to this many pixels; 0 for none.
      shape: of the noise of one image.
    """
    flip_key, crop_key, noise_key = jax.random.split(key, 3)
    if flip:
        images = augment.random_flip(augment.example_keys(flip_key, positions), images)
    if crop:
        keys = augment.example_keys(crop_key, positions)
        images = augment.random_crop(keys, images, crop)
    return augment.to_float(images), example_noise(noise_key, positions, shape)
