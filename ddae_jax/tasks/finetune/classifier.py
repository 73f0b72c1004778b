"""The classifier that is fine-tuned, and how many images it gets right."""

import dataclasses
from collections.abc import Callable

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.features.encode import evaluation_inputs, example_noise, extract
from ddae_jax.features.latents import Latents
from ddae_jax.heads import linear
from ddae_jax.runtime import compiler, parallel
from ddae_jax.tasks.finetune import depths

Images = Float[Array, "batch height width channels"]


def select(params: dict, paths: tuple[str, ...]) -> dict:
    """The part of a parameter tree at "/"-joined `paths`."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return flax.traverse_util.unflatten_dict({p: flat[p] for p in paths}, sep="/")


def complete(
    denoiser: Denoiser,
    params: dict,
    image_shape: tuple[int, ...],
    zeros: Callable[..., Array | np.ndarray] = jnp.zeros,
) -> dict:
    """The whole tree of the network: zeros where `params` has nothing.

    Under jit, what comes after the tap is dropped, zeros and all.

    Args:
      zeros: makes them of a shape and a type; numpy's stay on the host.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    whole = {
        path: flat[path] if path in flat else zeros(leaf.shape, leaf.dtype)
        for path, leaf in depths.parameter_shapes(denoiser, image_shape).items()
    }
    return flax.traverse_util.unflatten_dict(whole, sep="/")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A denoiser up to one tap at one time, pooled, then a linear head.

    Its parameters are {"network": those that the tap depends on, "head": {"kernel",
    "bias"}}.

    Attributes:
      denoiser: network and process.
      tap: name of the tap.
      time: the process's own, of every image.
      latents: how images become what the denoiser takes; None where it takes images.
    """

    denoiser: Denoiser
    tap: str
    time: float
    latents: Latents | None = None

    def input_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what the denoiser takes for an image of `image_shape`."""
        return tuple(image_shape if self.latents is None else self.latents.shape)

    def noise(
        self, key: PRNGKeyArray, positions: Int[Array, "batch"], images: Images
    ) -> Float[Array, "batch rows columns noise_channels"]:
        """Standard normal noise by global position; of latents, the posterior's too."""
        *size, channels = self.input_shape(images.shape[1:])
        if self.latents is not None:
            channels *= 2
        return example_noise(key, positions, (*size, channels))

    def feature_width(self, image_shape: tuple[int, ...]) -> int:
        """Length of the pooled tap."""
        shape = self.input_shape(image_shape)

        def features(params):
            x0 = jnp.zeros((1, *shape))
            network = flax.traverse_util.unflatten_dict(params, sep="/")
            return extract(self.denoiser, network, x0, self.time, x0, (self.tap,))

        flat = depths.parameter_shapes(self.denoiser, shape)
        return jax.eval_shape(features, flat)[self.tap].shape[-1]

    def logits(
        self,
        params: dict,
        autoencoder: dict | None,
        images: Images,
        noise: Float[Array, "batch rows columns noise_channels"],
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch classes"]:
        """Returns logits of images in [-1, 1]; a dropout key means training mode.

        Args:
          autoencoder: its parameters, where `latents` is given.
        """
        shape = self.input_shape(images.shape[1:])
        if self.latents is not None:
            of_posterior, noise = jnp.split(noise, 2, axis=-1)
            images = self.latents.encode(autoencoder, images, of_posterior)
        network = complete(self.denoiser, params["network"], shape)
        features = extract(
            self.denoiser,
            network,
            images,
            self.time,
            noise,
            (self.tap,),
            dropout_key=dropout_key,
        )
        return linear.logits(params["head"], features[self.tap])

    def count_correct(
        self,
        params: dict,
        autoencoder: dict | None,
        images: UInt8[Array, "batch height width channels"],
        labels: Int[Array, "batch"],
        indices: Int[Array, "batch"],
        valid: Bool[Array, "batch"],
        key: PRNGKeyArray,
    ) -> Int[Array, ""]:
        """How many of the valid images are classified rightly, each under one draw."""
        noise = self.noise(key, indices, images)
        logits = self.logits(params, autoencoder, augment.to_float(images), noise)
        return jnp.sum((logits.argmax(-1) == labels) & valid)


def accuracy_function(
    classifier: Classifier,
    autoencoder: dict | None,
    source: Source,
    mesh: Mesh,
    batch_size: int,
    key: PRNGKeyArray,
) -> Callable[[dict], float]:
    """Returns params -> share in [0, 1] of `source` that is classified rightly.

    Image i sees the noise of (key, i), so that batch size and devices do not matter.
    Compiled once for all parameters.
    """

    def accuracy(params):
        total = 0
        for batch in evaluation_inputs(source, mesh, batch_size):
            total += _count_correct(classifier, params, autoencoder, *batch, key)
        return int(parallel.on_host(total)) / len(source)

    return accuracy


@compiler.jit(static_argnames=("classifier",))
def _count_correct(classifier, *arguments):
    return classifier.count_correct(*arguments)
