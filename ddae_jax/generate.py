"""Denoiser + sampler -> images, each a function of its own index."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data.augment import example_keys, to_uint8
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.guidance import Guidance
from ddae_jax.diffusion.sampler import Denoise, Sampler, StepNoise
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
        return self._images(
            params, self._path(params, self._noise(key, indices), indices, labels)[0]
        )

    def trajectory(
        self,
        params: dict,
        key: PRNGKeyArray,
        indices: Int[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
        *,
        frames: int,
    ) -> UInt8[Array, "frames batch height width channels"]:
        """The x0 estimates on the way to the images of the same arguments.

        Args:
          frames: 2 or more: of the network's evaluations, evenly, the first and the
            last among them; all where it makes fewer.
        """
        noise = self._noise(key, indices)
        _, estimates = self._path(params, noise, indices, labels)
        last = len(estimates) - 1
        shown = np.unique(np.linspace(0, last, frames).round().astype(int))
        images = self._images(
            params, rearrange(estimates[shown], "f b ... -> (f b) ...")
        )
        return rearrange(images, "(f b) ... -> f b ...", f=len(shown))

    def between(
        self,
        params: dict,
        key: PRNGKeyArray,
        ends: Int[Array, "2 batch"],
        fractions: Float[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
    ) -> UInt8[Array, "batch height width channels"]:
        """Images between the images of two indices.

        All noise, that of the start and of the steps, goes on a quarter of a circle
        from one end's to the other's: it stays normal, of variance one, and the ends
        are exactly the images that are drawn of those indices, by any sampler.

        Args:
          fractions: of the way, in [0, 1].
          labels: of the images themselves.
        """
        first, second = (self._noise(key, indices) for indices in ends)
        angle = fractions * (np.pi / 2)
        # cos(pi/2) is not zero in float32.
        cosine = jnp.where(fractions == 1, 0, jnp.cos(angle))
        images = (len(angle), *(1,) * len(self.image_shape))
        start, end = cosine.reshape(images), jnp.sin(angle).reshape(images)

        def noise(step):
            return start * first(step) + end * second(step)

        return self._images(params, self._path(params, noise, ends[0], labels)[0])

    def _noise(self, key: PRNGKeyArray, indices: Int[Array, "batch"]) -> StepNoise:
        """Noise of step 0, the start, and of the sampler's steps from 1 on."""
        keys = example_keys(key, indices)

        def noise(step):
            def one(key):
                key = jax.random.fold_in(key, step)
                return jax.random.normal(key, self.image_shape)

            return jax.vmap(one)(keys)

        return noise

    def _path(self, params, noise: StepNoise, indices, labels):
        """The sampler's x0, and its estimates on the way."""
        own = params if self.decoder is None else params["denoiser"]
        return self.sampler.path(
            self._denoise(own, indices, labels),
            self.denoiser.process,
            noise(0),
            lambda step: noise(step + 1),
        )

    def _images(self, params, x0):
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


@compiler.jit(static_argnames=("generator", "frames", "sharding"))
def trajectory(
    generator: Generator,
    params: dict,
    key: PRNGKeyArray,
    indices: Int[Array, "batch"],
    labels: Int[Array, "batch"] | None = None,
    *,
    frames: int,
    sharding: Sharding,
) -> UInt8[Array, "frames batch height width channels"]:
    """`Generator.trajectory` as a compiled program.

    Args:
      sharding: of the images.
    """
    images = generator.trajectory(params, key, indices, labels, frames=frames)
    return jax.lax.with_sharding_constraint(images, sharding)


@compiler.jit(static_argnames=("generator", "sharding"))
def between(
    generator: Generator,
    params: dict,
    key: PRNGKeyArray,
    ends: Int[Array, "2 batch"],
    fractions: Float[Array, "batch"],
    labels: Int[Array, "batch"] | None = None,
    *,
    sharding: Sharding,
) -> UInt8[Array, "batch height width channels"]:
    """`Generator.between` as a compiled program.

    Args:
      sharding: of the images.
    """
    images = generator.between(params, key, ends, fractions, labels)
    return jax.lax.with_sharding_constraint(images, sharding)
