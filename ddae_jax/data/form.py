"""What a row of a data set is: an image, or the moments of an image's latents.

A set says which form its rows have; the training step asks the form for what the
denoiser takes. So latents are drawn from their posterior anew in every epoch.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from ddae_jax.data import augment
from ddae_jax.errors import UserError

Scale = float | tuple[float, ...]


class Form(Protocol):
    """What the rows of a set are. Static under jit: frozen and hashable.

    Attributes:
      are_images: whether a row is a uint8 image; else only pre-training takes it.
      dtype: of a row, as numpy names it.
    """

    are_images: ClassVar[bool]
    dtype: str

    @property
    def facts(self) -> dict[str, Any]:
        """What data.json says of them."""

    def row_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Of one row, where the denoiser takes `image_shape`."""

    def check(self, flip: bool, augment_probability: float) -> None:
        """Raises a UserError where rows cannot be augmented so."""

    def drawn(
        self,
        key: PRNGKeyArray,
        rows: Num[Array, "batch *row"],
        flipped: Bool[Array, "batch"] | None,
    ) -> Num[Array, "batch height width channels"]:
        """What the denoising loss sees: uint8, or x0 itself.

        Args:
          flipped: which of them are mirrored; None: none.
        """

    def another(
        self, key: PRNGKeyArray, rows: Num[Array, "batch *row"], flip: bool
    ) -> Num[Array, "batch height width channels"]:
        """What other objectives start from: uint8 as it is in the set, or another x0.

        Args:
          flip: whether images are mirrored at random, where this draws at all.
        """

    def still(
        self, rows: Num[np.ndarray, "batch *row"]
    ) -> Num[np.ndarray, "batch height width channels"]:
        """Images for whoever draws and mirrors nothing."""


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """Rows are uint8 images."""

    are_images: ClassVar[bool] = True
    dtype: ClassVar[str] = "uint8"

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def row_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The image's."""
        return tuple(image_shape)

    def check(self, flip: bool, augment_probability: float) -> None:
        """Everything is possible."""

    def drawn(
        self,
        key: PRNGKeyArray,
        rows: Num[Array, "batch *row"],
        flipped: Bool[Array, "batch"] | None,
    ) -> Num[Array, "batch height width channels"]:
        """The images, mirrored where `flipped`; nothing is drawn."""
        return rows if flipped is None else augment.flip(flipped, rows)

    def another(
        self, key: PRNGKeyArray, rows: Num[Array, "batch *row"], flip: bool
    ) -> Num[Array, "batch height width channels"]:
        """The images."""
        return rows

    def still(
        self, rows: Num[np.ndarray, "batch *row"]
    ) -> Num[np.ndarray, "batch height width channels"]:
        """The images."""
        return rows


IMAGES = ImageForm()


@dataclasses.dataclass(frozen=True)
class MomentForm:
    """Rows are means and standard deviations of an autoencoder's posterior.

    A row has an axis of copies: of the image, and where `mirrored` of its mirror image,
    whose latents are not the mirrored ones. Its channels are the means, then the
    standard deviations.

    Attributes:
      mirrored: whether there are two copies.
      dtype: of the rows.
      scale: number, or one of each channel; see `normalised`.
      shift: of each channel; empty: none.
      autoencoder: the identity of what made them.
    """

    mirrored: bool
    dtype: str
    scale: Scale
    shift: tuple[float, ...]
    autoencoder: str
    are_images: ClassVar[bool] = False

    @property
    def facts(self) -> dict[str, Any]:
        """What decoding needs, under "latents"."""
        return {
            "latents": {
                "autoencoder": self.autoencoder,
                "scale": self.scale,
                "shift": self.shift,
            }
        }

    def row_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """(copies, rows, columns, twice the channels)."""
        height, width, channels = image_shape
        return 1 + self.mirrored, height, width, 2 * channels

    def check(self, flip: bool, augment_probability: float) -> None:
        """Raises a UserError for flips without mirrored copies, and for warps."""
        if flip and not self.mirrored:
            raise UserError(
                "config.train.flip: these latents have no mirrored copies; set it to "
                "False, or encode with config.encode.mirrored"
            )
        if augment_probability:
            raise UserError(
                "config.train.augment_probability: EDM's augmentation is for pixels, "
                "not for latents; set it to 0"
            )

    def drawn(
        self,
        key: PRNGKeyArray,
        rows: Num[Array, "batch *row"],
        flipped: Bool[Array, "batch"] | None,
    ) -> Float[Array, "batch height width channels"]:
        """A draw from the posterior of the image, or of its mirror image."""
        chosen = rows[:, 0]
        if flipped is not None:
            chosen = jnp.where(flipped[:, None, None, None], rows[:, 1], chosen)
        mean, std = jnp.split(chosen.astype(jnp.float32), 2, axis=-1)
        latents = mean + std * jax.random.normal(key, mean.shape)
        return normalised(latents, self.scale, self.shift)

    def another(
        self, key: PRNGKeyArray, rows: Num[Array, "batch *row"], flip: bool
    ) -> Float[Array, "batch height width channels"]:
        """Another draw, mirrored by coins of its own."""
        of_coins, of_draw = jax.random.split(key)
        flipped = None
        if flip:
            positions = jnp.arange(len(rows))
            flipped = augment.coins(augment.example_keys(of_coins, positions))
        return self.drawn(of_draw, rows, flipped)

    def still(
        self, rows: Num[np.ndarray, "batch *row"]
    ) -> Float[np.ndarray, "batch height width channels"]:
        """The normalised means of the images."""
        means = np.split(rows[:, 0].astype(np.float32), 2, axis=-1)[0]
        shift = np.asarray(self.shift or 0, np.float32)
        return (means - shift) * np.asarray(self.scale, np.float32)


def normalised(
    latents: Float[Array, "*batch channels"], scale: Scale, shift: tuple[float, ...]
) -> Float[Array, "*batch channels"]:
    """x0 of a denoiser of latents: (latents - shift) times scale."""
    if shift:
        latents = latents - jnp.asarray(shift, jnp.float32)
    return latents * jnp.asarray(scale, jnp.float32)


def restored(
    x0: Float[Array, "*batch channels"], scale: Scale, shift: tuple[float, ...]
) -> Float[Array, "*batch channels"]:
    """The inverse of `normalised`."""
    latents = x0 / jnp.asarray(scale, jnp.float32)
    return latents + jnp.asarray(shift, jnp.float32) if shift else latents
