"""Denoiser + sampler -> images, each a function of its own index."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data.augment import example_keys, to_uint8
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.guidance import Guidance
from ddae_jax.diffusion.sampler import Denoise, Sampler
from ddae_jax.errors import UserError
from ddae_jax.runtime import compiler


class Decoder(Protocol):
    """What turns the x0 of a denoiser of latents into images; hashable."""

    def decode(
        self, params: dict, x0: Float[Array, "batch rows columns latent"]
    ) -> UInt8[Array, "batch height width channels"]:
        """Returns the images; `params` are the autoencoder's."""
        ...


@dataclasses.dataclass(frozen=True)
class Generator:
    """A way to draw images from a denoiser: a pure function, hashable by value.

    Attributes:
      image_shape: (height, width, channels) of what the denoiser takes.
      guidance: where it acts, draws need labels and a network with a `null_label`.
      decoder: of a denoiser of latents.

    Raises:
      UserError: the sampler's settings do not fit the process, or guidance acts and the
        network has no `null_label`.
    """

    denoiser: Denoiser
    sampler: Sampler
    image_shape: tuple[int, int, int]
    guidance: Guidance = Guidance()
    decoder: Decoder | None = None

    def __post_init__(self):
        self.sampler.check(self.denoiser.process)
        if self.guidance.acts and self.denoiser.network.null_label is None:
            raise UserError('guidance needs a network trained with "no class"')

    def __call__(
        self,
        params: dict,
        key: PRNGKeyArray,
        indices: Int[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
    ) -> UInt8[Array, "batch height width channels"]:
        """Returns images; number i depends on (key, indices[i], labels[i]) alone.

        Args:
          params: the denoiser's; with a decoder {"denoiser": ..., "autoencoder": ...}.
          labels: classes, of a network trained with them.
        """
        own = params if self.decoder is None else params["denoiser"]
        keys = example_keys(key, indices)

        def noise(step: Int[Array, ""] | int) -> Float[Array, "batch ..."]:
            def one(key):
                key = jax.random.fold_in(key, step)
                return jax.random.normal(key, self.image_shape)

            return jax.vmap(one)(keys)

        x0 = self.sampler(
            self._denoise(own, indices, labels),
            self.denoiser.process,
            noise(0),
            lambda step: noise(step + 1),
        )
        if self.decoder is None:
            return to_uint8(x0)
        return self.decoder.decode(params["autoencoder"], x0)

    def _denoise(
        self,
        params: dict,
        indices: Int[Array, "batch"],
        labels: Int[Array, "batch"] | None,
    ) -> Denoise:
        """What the sampler takes, guided where guidance acts."""
        denoiser, process = self.denoiser, self.denoiser.process

        def given(labels):
            def denoise(x_t, time):
                output = denoiser.output(params, x_t, time, labels)
                return process.estimate(output, x_t, time)

            return denoise

        if not self.guidance.acts:
            return given(labels)
        null = jnp.full_like(indices, denoiser.network.null_label)
        return self.guidance(given(labels), given(null), process)


@compiler.jit(static_argnames=("generator", "sharding"))
def generate(
    generator: Generator,
    params: dict,
    key: PRNGKeyArray,
    indices: Int[Array, "batch"],
    labels: Int[Array, "batch"] | None = None,
    sharding: Sharding | None = None,
) -> UInt8[Array, "batch height width channels"]:
    """`generator` as a compiled program; equal generators share one.

    Args:
      sharding: of the images; None leaves it to the compiler.
    """
    images = generator(params, key, indices, labels)
    if sharding is None:
        return images
    return jax.lax.with_sharding_constraint(images, sharding)
