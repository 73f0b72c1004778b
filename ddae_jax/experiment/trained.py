"""A denoiser with weights, as tasks use it."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.features.cache import model_identity
from ddae_jax.features.encode import Encode, Encoder
from ddae_jax.features.latents import LatentEncoder, Latents


@dataclasses.dataclass(frozen=True)
class Trained:
    """A denoiser with the EMA weights of one checkpoint, fine-tuned from it, or random.

    Attributes:
      denoiser: the network and its process.
      params: its weights, on the mesh as they are trained.
      step: of the pre-training that they come from; 0 for random weights.
      image_shape: (height, width, channels) of what the denoiser takes.
      mesh: of the devices at hand.
      latents: of a denoiser of latents: how they belong to images.
      autoencoder: weights for it, replicated over the mesh.
    """

    denoiser: Denoiser
    params: dict
    step: int
    image_shape: tuple[int, int, int]
    mesh: Mesh
    latents: Latents | None = None
    autoencoder: dict | None = None

    @property
    def variables(self) -> dict:
        """What `encoder` and the samplers take as params."""
        if self.latents is None:
            return self.params
        return {"denoiser": self.params, "autoencoder": self.autoencoder}

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images that `encoder` takes."""
        return self.image_shape if self.latents is None else self.latents.image_shape

    def encoder(self, taps: Sequence[str], pooled: bool = True) -> Encode:
        """(self.variables, x0, noise, time) -> tap -> features; x0 are images.

        Features of all positions where not `pooled`.
        """
        of_denoiser = Encoder(self.denoiser, tuple(taps), pooled)
        if self.latents is None:
            return of_denoiser
        return LatentEncoder(of_denoiser, self.latents)

    def identity(self, taps: Sequence[str] = ()) -> str:
        """Changes when the features of these taps may, by content: see identity.py."""
        return model_identity(self.encoder(taps), self.variables)

    def check_images(self, source: Source) -> None:
        """Raises a UserError where `encoder` cannot take the images of `source`."""
        source.check_images()
        given = tuple(source.image_shape)
        wanted = f"the checkpoint was trained on {self.image_shape}"
        if self.latents is not None:
            if self.latents.accepts(given):
                return
            wanted = f"the autoencoder takes shapes like {self.latents.image_shape}"
        elif given == self.image_shape:
            return
        elif self.image_shape[-1] > 3:
            wanted = autoencoder.MISSING.format(channels=self.image_shape[-1])
        raise UserError(f"config.data: images of {source.name} are {given}, {wanted}")
