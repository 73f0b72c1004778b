"""Classifiers of noisy images: what of them is fixed, what is trained, by what rule."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ddae_jax.diffusion.process import Process
from ddae_jax.features.encode import Encode
from ddae_jax.models.base import Trainable
from ddae_jax.train.optimizers import FromOptax, Optimizer, Schedule
from ddae_jax.train.state import ClassifierState
from ddae_jax.train.window import Metrics

Images = Float[Array, "batch height width channels"]
Times = Float[Array, "batch"]


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """A network on top of a fixed view of the noisy image.

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

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the noise that one image of `image_shape` takes."""
        if self.encode is None:
            return tuple(image_shape)
        return tuple(self.encode.noise_shape(image_shape))

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


@dataclasses.dataclass(frozen=True)
class SGD(FromOptax):
    """PyTorch's: the decay, l2 on every parameter, goes through the momentum.

    Attributes:
      schedule: of the learning rate.
      momentum: 0 for none.
      weight_decay: l2.
      network: tells which parameters may change, and so decay; None: all of them.
    """

    schedule: Schedule
    momentum: float
    weight_decay: float
    network: Trainable | None = None

    def rule(self) -> optax.GradientTransformation:
        """optax's."""
        mask = None if self.network is None else self.network.trainable
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask),
            optax.sgd(self.schedule, momentum=self.momentum or None),
        )


def create(
    classifier: NoisyClassifier,
    optimizer: Optimizer,
    input_shape: tuple[int, ...],
) -> Callable[[PRNGKeyArray], ClassifierState]:
    """Returns the function key -> state before the first step, for use inside jit."""

    def init(key):
        params = classifier.init(key, input_shape)
        return ClassifierState(jnp.int32(0), params, optimizer.init(params))

    return init


def update(
    classifier: NoisyClassifier,
    optimizer: Optimizer,
    state: ClassifierState,
    inputs: Array,
    condition: Times,
    labels: Int[Array, "batch"],
) -> tuple[ClassifierState, Metrics]:
    """One optimiser step on the mean cross-entropy.

    Returns the state, and the metrics "loss" and "accuracy" of the parameters before.
    """

    def mean_loss(params):
        logits = classifier.logits(params, inputs, condition)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (losses, logits.argmax(-1) == labels)

    gradient, (losses, right) = jax.grad(mean_loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": Average.from_model_output(losses),
        "accuracy": Average.from_model_output(right.astype(jnp.float32)),
    }
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
