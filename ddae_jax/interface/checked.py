"""Images as users give them to a model."""

import numpy as np
from absl import logging
from jaxtyping import Num

from ddae_jax.errors import UserError
from ddae_jax.experiment.trained import Trained

Images = Num[np.ndarray, "n height width channels"]


def are_encoded(trained: Trained, shape: tuple[int, ...]) -> bool:
    """Whether images of this shape, a batch, go through the model's autoencoder."""
    latents = trained.latents
    return (
        latents is not None
        and len(shape) == 4
        and shape[-1] == latents.image_shape[-1] != trained.image_shape[-1]
    )


def check_shape(
    trained: Trained, name: str, shape: tuple[int, ...], clean: bool
) -> None:
    """Raises a UserError where the model does not take images of this shape.

    Args:
      name: of the argument.
      shape: of the batch.
      clean: whether they are images as a user has them, which may be encoded.
    """
    latents = trained.latents if clean and are_encoded(trained, shape) else None
    fits = shape[1:] == trained.image_shape or (
        latents is not None and latents.accepts(shape[1:])
    )
    if len(shape) != 4 or not fits or not shape[0]:
        wanted = trained.image_shape if latents is None else latents.image_shape
        raise UserError(
            f"{name}: shape {shape}, but the model takes (n, "
            f"{', '.join(map(str, wanted))})"
        )


def checked(trained: Trained, name: str, images: Images, clean: bool) -> Images:
    """Returns images as float32, or uint8 where they are clean.

    Args:
      name: of the argument.
      clean: whether they lie in [-1, 1], where they are no latents.

    Raises:
      UserError: they have another shape, type or range.
    """
    images = np.asarray(images)
    check_shape(trained, name, images.shape, clean)
    if clean and images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        kinds = "uint8 or floats in [-1, 1]" if clean else "floats"
        raise UserError(f"{name}: type {images.dtype}; give {kinds}")
    images = images.astype(np.float32)
    if clean and images.shape[-1] <= 3 and images.min() >= 0 and images.max() > 0:
        logging.warning(
            "%s: no value is negative; floats are taken as [-1, 1], of which 0 is "
            "mid-grey: give 2 * x - 1 for values in [0, 1], or uint8",
            name,
        )
    # Latents, of four channels and more, have no such range.
    limit = 1.0 + 1e-4 if clean and images.shape[-1] <= 3 else np.inf
    if not np.isfinite(images).all() or np.abs(images).max() > limit:
        raise UserError(
            f"{name}: values from {images.min():.4g} to {images.max():.4g}; floats "
            f"must be {'in [-1, 1]' if np.isfinite(limit) else 'finite'}"
        )
    return images
