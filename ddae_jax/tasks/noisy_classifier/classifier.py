"""Classifiers of noisy images: what of them is fixed, what is trained, by what rule."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ddae_jax.diffusion.process import Process
from ddae_jax.models.base import Trainable

Images = Float[Array, "batch height width channels"]
Times = Float[Array, "batch"]
Encode = Callable[[dict, Images, Images, Times], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """A network behind a fixed view of the noisy image.

    Attributes:
      name: in results.
      network: (inputs, condition) -> logits; what is trained.
      process: gives the noise.
      encode: the features that the network sees; None: the noisy image itself.
    """

    name: str
    network: Trainable
    process: Process
    encode: Encode | None = None

    def draw_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws training times, the process's own."""
        if self.encode is None:
            return self.process.training_times(key, count)
        return self.process.head_training_times(key, count)

    def condition(self, time: Times) -> Float[Array, "batch"]:
        """What the network is told of the noise at `time`."""
        if self.encode is None:
            return self.process.classifier_condition(time)
        return self.process.head_condition(time)

    def inputs(self, fixed: dict, x0: Images, noise: Images, time: Times) -> Array:
        """What the network sees.

        Args:
          fixed: parameters of `encode`; unused without it.
          x0: clean images in [-1, 1].
          noise: standard normal, as `encode` takes it.
          time: the process's own, of each image.
        """
        if self.encode is None:
            return self.process.add_noise(x0, noise, time)
        (features,) = self.encode(fixed, x0, noise, time).values()
        return features

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...]) -> dict:
        """Draws the network's parameters for inputs of `input_shape`, without batch."""
        return self.network.init(key, jnp.zeros((1, *input_shape)), jnp.zeros(1))[
            "params"
        ]

    def logits(self, params: dict, inputs: Array, condition: Times) -> Array:
        """Returns (batch, classes)."""
        return self.network.apply({"params": params}, inputs, condition)

    def parameter_count(self, input_shape: tuple[int, ...]) -> int:
        """Number of trained parameters."""
        shapes = jax.eval_shape(
            lambda key: self.init(key, input_shape), jax.random.key(0)
        )
        trained = jax.tree.map(
            lambda leaf, kept: leaf.size * kept, shapes, self.mask(shapes)
        )
        return sum(jax.tree.leaves(trained))

    def mask(self, params: dict) -> dict:
        """Tree like `params`: whether training may change it."""
        return self.network.trainable(params)


@flax.struct.dataclass
class ClassifierState:
    """Attributes:
    step: optimiser steps done.
    params: of the network, float32.
    opt_state: of the optax optimiser.
    """

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState


def cosine_after_warmup(
    learning_rate: float,
    epochs: int,
    warmup_epochs: int,
    batch_size: int,
    count: int,
) -> optax.Schedule:
    """Schedule over optimiser steps that moves once an epoch.

    Linear to `learning_rate` over the warm-up epochs, the first of which has 1/warm-up
    of it; then the half cosine that ends at 0 behind the last epoch, scaled to meet
    the warm-up: what PyTorch's CosineAnnealingLR makes of it in the published code.
    A batch belongs to the epoch of its first image.
    """
    peak = 1 + jnp.cos(jnp.pi * max(warmup_epochs - 1, 0) / epochs)

    def schedule(step):
        epoch = step * batch_size // count
        rising = (epoch + 1) / max(warmup_epochs, 1)
        falling = (1 + jnp.cos(jnp.pi * epoch / epochs)) / peak
        return learning_rate * jnp.where(epoch < warmup_epochs, rising, falling)

    return schedule


def sgd(
    schedule: optax.Schedule,
    momentum: float,
    weight_decay: float,
    mask: Callable[[dict], dict] | None = None,
) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay, l2 on every parameter, goes through the momentum.

    Args:
      mask: params -> tree of whether a parameter decays.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.sgd(schedule, momentum=momentum or None),
    )


def create(
    classifier: NoisyClassifier,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
) -> Callable[[PRNGKeyArray], ClassifierState]:
    """Returns the function key -> state before the first step, for use inside jit."""

    def init(key):
        params = classifier.init(key, input_shape)
        return ClassifierState(jnp.int32(0), params, optimizer.init(params))

    return init


def update(
    classifier: NoisyClassifier,
    optimizer: optax.GradientTransformation,
    state: ClassifierState,
    inputs: Array,
    condition: Times,
    labels: Int[Array, "batch"],
) -> tuple[ClassifierState, dict[str, Float[Array, ""]]]:
    """One optimiser step on the mean cross-entropy.

    Returns the state, and the metrics "loss" and "accuracy" of the parameters before.
    """

    def mean_loss(params):
        logits = classifier.logits(params, inputs, condition)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits.argmax(-1) == labels).mean()

    (loss, accuracy), gradient = jax.value_and_grad(mean_loss, has_aux=True)(
        state.params
    )
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "accuracy": accuracy}
    return ClassifierState(state.step + 1, params, opt_state), metrics


def count_correct(
    classifier: NoisyClassifier,
    params: dict,
    inputs: Array,
    condition: Times,
    labels: Int[Array, "batch"],
    valid: Bool[Array, "batch"],
) -> Int[Array, ""]:
    """How many of the valid examples are classified right."""
    logits = classifier.logits(params, inputs, condition)
    return jnp.sum((logits.argmax(-1) == labels) & valid)
