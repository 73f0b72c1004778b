"""A small classifier of a data set, whose features stand in for Inception's.

Inception knows nothing of digits or grey clothes. A classifier of the very set does;
its distance is of use to compare runs on that set, and nothing else.
"""

import dataclasses
import pathlib

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.models.layer_chain import Layer, LayerChain
from ddae_jax.runtime import checkpoint, compiler, log, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.train import loop, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed, Steps, each
from ddae_jax.train.optimizers import Adam, WarmupCosine
from ddae_jax.train.plan import Every, Plan
from ddae_jax.train.state import ClassifierState
from ddae_jax.train.window import Metrics

WIDTH = 64
_WIDTHS = (32, 64, 128)
_HEAD = "classes"
_BATCH_SIZE = 128
_LEARNING_RATE = 2e-3


class ClassifierNetwork(nn.Module):
    """Three convolutions, the mean over positions, and a layer of features.

    The same network as `chain`: its parameters' names are those of the chain's tensors.

    Attributes:
      class_count: of the labels.
    """

    class_count: int

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        """Returns logits."""
        he_normal = nn.initializers.he_normal()
        x = (images.astype(jnp.float32) - 127.5) / 127.5
        for number, width in enumerate(_WIDTHS):
            stride = 1 if number == 0 else 2
            x = nn.Conv(
                width,
                (3, 3),
                stride,
                padding=1,
                kernel_init=he_normal,
                name=f"conv_{number}",
            )(x)
            x = nn.relu(x)
        x = x.mean(axis=(1, 2))
        x = nn.relu(nn.Dense(WIDTH, kernel_init=he_normal, name="features")(x))
        return nn.Dense(self.class_count, kernel_init=he_normal, name=_HEAD)(x)


def chain(image_shape: tuple[int, int, int]) -> LayerChain:
    """The network up to its features, as a file describes it."""
    layers = []
    for number in range(len(_WIDTHS)):
        layers.append(Layer("conv", f"conv_{number}", stride=1 if number == 0 else 2))
        layers.append(Layer("relu"))
    layers += [Layer("mean"), Layer("dense", "features"), Layer("relu")]
    return LayerChain(tuple(layers), tuple(image_shape))


@dataclasses.dataclass(frozen=True)
class TrainedFeatures:
    """Attributes:
    chain: from images to features.
    tensors: of the chain, without the last layer of the classifier.
    accuracy: on the batches of the last tenth of training, in [0, 1].
    """

    chain: LayerChain
    tensors: dict[str, np.ndarray]
    accuracy: float


def fit(
    folder: str | pathlib.Path,
    source: Source,
    mesh: Mesh,
    steps: int,
    seed: int,
    steps_per_dispatch: int = 1,
) -> TrainedFeatures:
    """Trains with cross-entropy, Adam and a cosine to 0.

    Args:
      folder: of the training: an interrupted one goes on in it.
      source: training images.
      seed: of the initial weights and the order.
      steps_per_dispatch: in one call of the device; the result is the same to rounding.

    Raises:
      UserError: fewer than two classes.
    """
    classes = len(source.class_names)
    if classes < 2 or len(np.unique(source.labels)) < 2:
        raise UserError(
            f"{source.name} has images of one class only: no classifier can be trained"
        )
    parts = parallel.batch_parts(mesh)
    batch_size = -(-_BATCH_SIZE // parts) * parts
    trainer = _Trainer(
        ClassifierNetwork(classes),
        Adam(WarmupCosine(_LEARNING_RATE, 0, steps), clip_norm=None),
        Feed(source, batch_size, seed, mesh),
    )
    plan = Plan(
        title="fid classifier",
        steps=steps,
        batch_size=batch_size,
        steps_per_dispatch=steps_per_dispatch,
        log=Every(max(steps // 10, 1)),
        checkpoint=Every(max(steps // 5, 1)),
        keep=checkpoint.Keep(latest=1, best=False),
    )
    state = loop.fit(folder, trainer, plan)
    tensors = flax.traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
    kept = {
        name: np.asarray(tensor)
        for name, tensor in tensors.items()
        if not name.startswith(_HEAD)
    }
    accuracy = log.read_metrics(folder)[-1]["accuracy"]
    return TrainedFeatures(chain(source.image_shape), kept, accuracy)


class _Trainer:
    """A `loop.Trainer`."""

    def __init__(self, network: ClassifierNetwork, optimizer: Adam, feed: Feed):
        self._network, self._optimizer, self._feed = network, optimizer, feed
        self._key = stream(feed.seed, "fid/classifier_init")

    def create(self) -> ClassifierState:
        shape, mesh = self._feed.source.image_shape, self._feed.mesh
        return _create(self._network, self._optimizer, shape, mesh, self._key)

    def abstract(self) -> ClassifierState:
        shape, mesh = self._feed.source.image_shape, self._feed.mesh
        init = _init(self._network, self._optimizer, shape)
        return train_state.abstract(init, mesh, self._key)

    def dispatch(
        self, state: ClassifierState, step: int, count: int
    ) -> tuple[ClassifierState, Metrics]:
        steps = self._feed.steps(step, count)
        return _run(self._network, self._optimizer, state, steps)

    def learning_rate(self, step: int) -> float:
        return optimizers.rate_at(self._optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self._feed.seconds

    def flops(self) -> None:
        """Not counted."""


def _init(network, optimizer, image_shape):
    def init(key):
        images = jnp.zeros((1, *image_shape), jnp.uint8)
        params = network.init(key, images)["params"]
        return ClassifierState(jnp.int32(0), params, optimizer.init(params))

    return init


@compiler.jit(once=True, static_argnums=(0, 1, 2, 3))
def _create(network, optimizer, image_shape, mesh, key):
    state = _init(network, optimizer, image_shape)(key)
    return parallel.constrain(state, parallel.state_shardings(mesh, state))


@compiler.jit(static_argnums=(0, 1), donate_argnums=(2,))
def _run(network, optimizer, state: ClassifierState, steps: Steps):
    def body(state, batch: Batch):
        def mean_loss(params):
            logits = network.apply({"params": params}, batch.images)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch.labels
            )
            return losses.mean(), (losses, logits.argmax(-1) == batch.labels)

        gradient, (losses, right) = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": Average.from_model_output(losses),
            "accuracy": Average.from_model_output(right.astype(jnp.float32)),
        }
        return ClassifierState(state.step + 1, params, opt_state), metrics

    return each(body, state, steps)
