"""A small classifier of a data set, whose features stand in for Inception's.

Inception knows nothing of digits or grey clothes. A classifier of the very set does;
its distance is of use to compare runs on that set, and nothing else.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from ddae_jax.data import batches
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.models.layer_chain import Layer, LayerChain
from ddae_jax.runtime import compiler
from ddae_jax.runtime.random import stream

WIDTH = 64
_WIDTHS = (32, 64, 128)
_HEAD = "classes"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Attributes:
    chain: from images to features.
    tensors: of the chain, without the last layer of the classifier.
    accuracy: on the batches of the last tenth of training, in [0, 1].
    """

    chain: LayerChain
    tensors: dict[str, np.ndarray]
    accuracy: float


def fit(
    source: Source,
    steps: int,
    seed: int,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
) -> Classifier:
    """Trains with cross-entropy, Adam and a cosine to 0, on one device.

    Args:
      source: training images.
      seed: of the initial weights and the order.

    Raises:
      UserError: fewer than two classes.
    """
    classes = len(source.class_names)
    if classes < 2 or len(np.unique(source.labels)) < 2:
        raise UserError(
            f"{source.name} has images of one class only: no classifier can be trained"
        )
    chain = _chain(source.image_shape)
    tensors = _init(source.image_shape[-1], classes, seed)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    opt_state = optimizer.init(tensors)

    def loss_of(tensors, images, labels):
        features = chain(tensors, images)
        scores = features @ tensors[f"{_HEAD}/kernel"] + tensors[f"{_HEAD}/bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return losses.mean(), (scores.argmax(-1) == labels).mean()

    def update(tensors, opt_state, images, labels):
        gradient, accuracy = jax.grad(loss_of, has_aux=True)(tensors, images, labels)
        updates, opt_state = optimizer.update(gradient, opt_state, tensors)
        return optax.apply_updates(tensors, updates), opt_state, accuracy

    update = jax.jit(
        update, donate_argnums=(0, 1), compiler_options=compiler.compiler_options()
    )
    order = batches.Order(seed, len(source))
    accuracies = []
    for step in range(steps):
        indices = order.batch(step, batch_size)
        tensors, opt_state, accuracy = update(
            tensors, opt_state, source.read(indices), source.labels[indices]
        )
        accuracies.append(accuracy)
        if (step + 1) % max(steps // 5, 1) == 0:
            recent = float(np.mean(accuracies[-max(steps // 10, 1) :]))
            logging.info("fid classifier: %d/%d, %.3f", step + 1, steps, recent)
    kept = {
        name: np.asarray(tensor)
        for name, tensor in tensors.items()
        if not name.startswith(_HEAD)
    }
    return Classifier(chain, kept, recent)


def _chain(image_shape: tuple[int, int, int]) -> LayerChain:
    layers = []
    for number in range(len(_WIDTHS)):
        layers.append(Layer("conv", f"conv_{number}", stride=1 if number == 0 else 2))
        layers.append(Layer("relu"))
    layers += [Layer("mean"), Layer("dense", "features"), Layer("relu")]
    return LayerChain(tuple(layers), tuple(image_shape))


def _init(channels: int, classes: int, seed: int) -> dict[str, jax.Array]:
    shapes = {}
    for number, width in enumerate(_WIDTHS):
        shapes[f"conv_{number}"] = (3, 3, channels, width)
        channels = width
    shapes["features"] = (channels, WIDTH)
    shapes[_HEAD] = (WIDTH, classes)
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        key = jax.random.fold_in(stream(seed, "fid/classifier_init"), number)
        tensors[f"{name}/kernel"] = jax.nn.initializers.he_normal()(key, shape)
        tensors[f"{name}/bias"] = jnp.zeros(shape[-1])
    return tensors
