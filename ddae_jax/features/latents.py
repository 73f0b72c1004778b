"""Denoisers of latents: images come in through an autoencoder, and go out through it.

A latent diffusion model (Rombach et al. 2022, arXiv 2112.10752) never sees an image:
its x0 is the scaled latent of one. The parameters of both networks travel together, as
{"denoiser": ..., "autoencoder": ...}.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from ddae_jax.data.augment import to_uint8
from ddae_jax.data.form import Scale, normalised, restored
from ddae_jax.errors import UserError
from ddae_jax.features.encode import Encoder
from ddae_jax.models.vae import AutoencoderKL

Images = Float[Array, "batch height width channels"]


def resize(images: Images, height: int, width: int) -> Images:
    """Resizes images in [-1, 1] as Pillow's bilinear filter does.

    As there, images have 8 bits, the width comes first, and the result of either pass
    is rounded, halves upwards. The same pixels where the factor is a power of two, as
    for 32 or 64 to 256; elsewhere within one level of 255.
    """
    batch, old_height, old_width, channels = images.shape
    if (old_height, old_width) == (height, width):
        return images
    pixels = jnp.round((images + 1) * 127.5)
    for shape in [
        (batch, old_height, width, channels),
        (batch, height, width, channels),
    ]:
        if shape != pixels.shape:
            pixels = jax.image.resize(pixels, shape, "linear", antialias=True)
            pixels = jnp.floor(pixels + 0.5)
    return pixels / 127.5 - 1


def in_pieces(function: Callable[..., Array], batch_size: int, *arrays: Array) -> Array:
    """Applies `function` to at most `batch_size` examples of `arrays` at a time.

    A piece takes every n-th example, so that a batch which is split over devices stays
    where it is.
    """
    count = len(arrays[0])
    pieces = -(-count // batch_size)
    if pieces == 1:
        return function(*arrays)
    while count % pieces:
        pieces += 1

    def split(array):
        return rearrange(array, "(n pieces) ... -> pieces n ...", pieces=pieces)

    outputs = jax.lax.map(lambda parts: function(*parts), tuple(map(split, arrays)))
    return rearrange(outputs, "pieces n ... -> (n pieces) ...")


@dataclasses.dataclass(frozen=True)
class Latents:
    """How the images and the latents of a denoiser belong together.

    Attributes:
      autoencoder: Stable Diffusion's network.
      shape: (rows, columns, channels) of the latents that the denoiser takes.
      scale: x0 of the denoiser = `scale` times the autoencoder's latent; a number, or
        one of each channel.
      shift: is taken from the latent before, one of each channel; empty: none.
      sample_posterior: encode images to a draw from the autoencoder's posterior, as the
        published code does; else to its mean.
      batch_size: images that go through the autoencoder at once: at 256x256 its
        activations take far more memory than the denoiser's.
    """

    autoencoder: AutoencoderKL
    shape: tuple[int, int, int]
    scale: Scale = 0.18215
    sample_posterior: bool = True
    batch_size: int = 64
    shift: tuple[float, ...] = ()

    def __post_init__(self):
        if self.shape[-1] != self.autoencoder.latent_channels:
            raise UserError(
                f"the denoiser takes latents of {self.shape[-1]} channels, the "
                f"autoencoder makes {self.autoencoder.latent_channels}"
            )
        if not np.all(np.asarray(self.scale) > 0):
            raise UserError(
                f"scale of the latents is {self.scale}; it must be positive"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; it must be at least 1")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that latents stand for."""
        factor = 2 ** (len(self.autoencoder.widths) - 1)
        rows, columns, _ = self.shape
        return rows * factor, columns * factor, self.autoencoder.image_channels

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether images of `shape` have the right channels and aspect ratio."""
        height, width, channels = self.image_shape
        return channels == shape[2] and height * shape[1] == width * shape[0]

    def moments(
        self, params: dict, images: Images
    ) -> Float[Array, "batch rows columns moments"]:
        """Returns the posterior's means, then its standard deviations, not scaled.

        Args:
          params: of the autoencoder.
          images: in [-1, 1], of any accepted size.
        """

        def encode(images):
            return jnp.concatenate(self._posterior(params, images), axis=-1)

        return in_pieces(encode, self.batch_size, images)

    def _posterior(self, params, images):
        """Means and standard deviations."""
        images = resize(images, *self.image_shape[:2])
        mean, log_variance = self.autoencoder.apply(
            {"params": params}, images, method="encode"
        )
        return mean, jnp.exp(0.5 * log_variance)

    def encode(
        self,
        params: dict,
        images: Images,
        noise: Float[Array, "batch rows columns latent"],
    ) -> Float[Array, "batch rows columns latent"]:
        """Returns x0 of the denoiser for images in [-1, 1] of any accepted size.

        Args:
          params: of the autoencoder.
          noise: standard normal, for the draw from the posterior.
        """

        def encode(images, noise):
            mean, std = self._posterior(params, images)
            if self.sample_posterior:
                mean = mean + std * noise
            return normalised(mean, self.scale, self.shift)

        return in_pieces(encode, self.batch_size, images, noise)

    def decode(
        self, params: dict, x0: Float[Array, "batch rows columns latent"]
    ) -> UInt8[Array, "batch height width channels"]:
        """Returns the images of the denoiser's x0; `params` are the autoencoder's."""

        def decode(x0):
            latents = restored(x0, self.scale, self.shift)
            return to_uint8(
                self.autoencoder.apply({"params": params}, latents, method="decode")
            )

        return in_pieces(decode, self.batch_size, x0)


@dataclasses.dataclass(frozen=True)
class LatentEncoder:
    """Pooled taps of a latent denoiser as the function of images that heads take.

    Its noise has twice the latents' channels: the first half draws from the posterior,
    the second is the diffusion's.
    """

    encoder: Encoder
    latents: Latents

    @property
    def names(self) -> tuple[str, ...]:
        """The taps."""
        return self.encoder.names

    def select(self, names: tuple[str, ...]) -> "LatentEncoder":
        """The same of other taps."""
        return dataclasses.replace(self, encoder=self.encoder.select(names))

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the noise of one image, whatever the size of the image."""
        rows, columns, channels = self.latents.shape
        return rows, columns, 2 * channels

    def __call__(
        self,
        params: dict,
        x0: Images,
        noise: Float[Array, "batch rows columns latent_2"],
        time: Float[Array, ""],
    ) -> dict[str, Array]:
        """Returns tap -> (batch, features) of images `x0` in [-1, 1]."""
        of_posterior, of_diffusion = jnp.split(noise, 2, axis=-1)
        latents = self.latents.encode(params["autoencoder"], x0, of_posterior)
        return self.encoder(params["denoiser"], latents, of_diffusion, time)
