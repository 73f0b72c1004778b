"""Denoiser + sampler -> images, each a function of its own index."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data.augment import example_keys
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.guidance import guided

Draw = Callable[
    [dict, PRNGKeyArray, Int[Array, "batch"], Int[Array, "batch"] | None],
    UInt8[Array, "batch height width channels"],
]


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of class-conditional samples.

    Attributes:
      scale: 1 is none.
      low, high: the noise levels between which it acts.
      channels: how many of the first channels are guided; None for all of the image.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = math.inf
    channels: int | None = None


def to_uint8(
    images: Float[Array, "batch height width channels"],
) -> UInt8[Array, "batch height width channels"]:
    """Maps [-1, 1] to 0..255, clipped and rounded."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)


def draw_function(
    denoiser: Denoiser,
    sampler: Callable,
    options: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    guidance: Guidance | None = None,
    decode: Callable[[dict, Array], Array] | None = None,
) -> Draw:
    """Returns the pure function (params, key, indices, labels) -> uint8 images.

    Sample i depends on (key, indices[i], labels[i]) alone.

    Args:
      sampler: one of `diffusion.SAMPLERS`.
      options: the sampler's keyword arguments.
      guidance: needs labels and a network with a `null_label`; None for no guidance.
      decode: (params, x0) -> uint8 images, of a denoiser of latents; `params` of the
        result are then {"denoiser": ..., "autoencoder": ...}.
    """
    process = denoiser.process
    learned_variance = hasattr(process, "x0_and_variance")

    def draw(params, key, indices, labels=None):
        own = params if decode is None else params["denoiser"]

        def denoise_with(labels):
            def denoise(x_t, time):
                output = denoiser.output(own, x_t, time, labels)
                if learned_variance:
                    return process.x0_and_variance(output, x_t, time)
                return process.x0(output, x_t, time)

            return denoise

        denoise = denoise_with(labels)
        if guidance is not None and guidance.scale != 1:
            null = jnp.full_like(indices, denoiser.network.null_label)
            denoise = guided(
                denoise,
                denoise_with(null),
                process,
                guidance.scale,
                (guidance.low, guidance.high),
                guidance.channels or image_shape[-1],
            )
        keys = example_keys(key, indices)

        def noise_of(step):
            def one(key):
                return jax.random.normal(jax.random.fold_in(key, step), image_shape)

            return jax.vmap(one)(keys)

        x0 = sampler(
            denoise, process, noise_of(0), lambda step: noise_of(step + 1), **options
        )
        return to_uint8(x0) if decode is None else decode(params["autoencoder"], x0)

    return draw
