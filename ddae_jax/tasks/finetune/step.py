"""The optimiser of fine-tuning, one step of it, and the trainer of such steps."""

import dataclasses
from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jaxtyping import PRNGKeyArray

from ddae_jax.data import augment
from ddae_jax.heads import linear
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.tasks.finetune.classifier import Classifier
from ddae_jax.tasks.finetune.mixing import Mixing, smooth_targets
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed, Steps, each
from ddae_jax.train.optimizers import FromOptax, Optimizer, Schedule
from ddae_jax.train.state import TrainState, averaged, ema_decay
from ddae_jax.train.window import Metrics, single


def layer_factors(depths: Mapping[str, int], decay: float) -> dict:
    """Factor of the learning rate of every parameter of a `Classifier`.

    The head learns at the full rate; a layer d below it at decay^d (BEiT, arXiv
    2106.08254, section 3.3).

    Args:
      depths: as `depths.layer_depths` gives them.
      decay: in (0, 1]; 1 is none.
    """
    head = max(depths.values()) + 1
    network = {path: decay ** (head - depth) for path, depth in depths.items()}
    return {
        "network": flax.traverse_util.unflatten_dict(network, sep="/"),
        "head": {"kernel": 1.0, "bias": 1.0},
    }


def decayed(params: dict) -> dict:
    """Marks the parameters that decay: kernels, but no biases, scales or tables."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict(
        {path: path[-1] == "kernel" for path in flat}
    )


@dataclasses.dataclass(frozen=True)
class AdamW(FromOptax):
    """AdamW (arXiv 1711.05101) after gradient clipping, with rates by layer.

    Attributes:
      schedule: of the learning rate.
      weight_decay: of the kernels.
      clip_norm: largest global norm of the gradient.
      factors: of the learning rate, "/"-joined path of a parameter -> factor, as pairs.
    """

    schedule: Schedule
    weight_decay: float
    clip_norm: float
    factors: tuple[tuple[str, float], ...]

    def rule(self) -> optax.GradientTransformation:
        """optax's."""
        factors = flax.traverse_util.unflatten_dict(dict(self.factors), sep="/")
        by_layer = optax.stateless(
            lambda updates, params: jax.tree.map(jnp.multiply, updates, factors)
        )
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.scale_by_adam(),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
            by_layer,
            optax.scale_by_learning_rate(self.schedule),
        )


def adamw(
    schedule: Schedule, weight_decay: float, clip_norm: float, factors: dict
) -> AdamW:
    """`AdamW` of the tree that `layer_factors` gives."""
    flat = flax.traverse_util.flatten_dict(factors, sep="/")
    return AdamW(schedule, weight_decay, clip_norm, tuple(flat.items()))


@dataclasses.dataclass(frozen=True)
class FinetuneStep:
    """The recipe of fine-tuning.

    Attributes:
      classifier: what is trained.
      optimizer: such as `adamw` gives.
      class_count: of the labels.
      ema_cap: largest decay of the EMA, which warms up as in pre-training.
      flip: mirror images at random.
      crop: images are shifted by up to this many pixels; 0 for none.
      mixing: mixup and CutMix.
      label_smoothing: share of each target spread over all classes.
    """

    classifier: Classifier
    optimizer: Optimizer
    class_count: int
    ema_cap: float = 0.9999
    flip: bool = False
    crop: int = 0
    mixing: Mixing = dataclasses.field(default_factory=Mixing)
    label_smoothing: float = 0.0

    def create(
        self, network: dict, key: PRNGKeyArray, image_shape: tuple[int, ...]
    ) -> TrainState:
        """The state before the first step; for use inside jit.

        Args:
          network: the parameters that the tap depends on.
          key: of the head's initial values.
          image_shape: (height, width, channels) of the images.
        """
        width = self.classifier.feature_width(image_shape)
        head = linear.init_head(key, width, self.class_count)
        # Networks that keep weights on a sphere do so before the first step, too.
        network = self.classifier.denoiser.network.project(network)
        params = {"network": network, "head": head}
        # A copy: donation would free an aliased buffer twice.
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), params, ema, self.optimizer.init(params))

    def __call__(
        self,
        state: TrainState,
        autoencoder: dict | None,
        batch: Batch,
        key: PRNGKeyArray,
    ) -> tuple[TrainState, Metrics]:
        """Augments, mixes and adds noise by (key, place of the image), then optimises.

        Every batch gets fresh noise. Returns the state, and the loss and the gradient's
        norm before the step.
        """
        flip, crop, noise, mix, dropout = jax.random.split(key, 5)
        images, labels, positions = batch.images, batch.labels, batch.positions
        if self.flip:
            images = augment.random_flip(augment.example_keys(flip, positions), images)
        if self.crop:
            keys = augment.example_keys(crop, positions)
            images = augment.random_crop(keys, images, self.crop)
        targets = smooth_targets(labels, self.class_count, self.label_smoothing)
        x0, targets = self.mixing(
            jax.random.fold_in(mix, state.step), augment.to_float(images), targets
        )
        noise = self.classifier.noise(noise, positions, x0)
        dropout = jax.random.fold_in(dropout, state.step)

        def mean_loss(params):
            logits = self.classifier.logits(params, autoencoder, x0, noise, dropout)
            losses = optax.softmax_cross_entropy(logits, targets)
            return losses.mean(), losses

        gradient, losses = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema_cap, warmup=True)
        ema = averaged(state.ema, params, decay)
        network = self.classifier.denoiser.network
        params = params | {"network": network.project(params["network"])}
        metrics = {
            "loss": Average.from_model_output(losses),
            "gradient_norm": single(optax.global_norm(gradient)),
        }
        return TrainState(state.step + 1, params, ema, opt_state), metrics


class Finetuning:
    """Fine-tuning as a `loop.Trainer`.

    Attributes:
      recipe: of one step.
      feed: the labelled images.
      network: initial parameters that the tap depends on, on the mesh.
      autoencoder: of a denoiser of latents.
    """

    def __init__(
        self, recipe: FinetuneStep, feed: Feed, network: dict, autoencoder: dict | None
    ):
        self.recipe, self.feed = recipe, feed
        self.network, self.autoencoder = network, autoencoder
        key = stream(feed.seed, "finetune/fit")
        self._init_key, self._draws = jax.random.split(key)

    def create(self) -> TrainState:
        """The network as it was trained, under a head of random values."""
        feed = self.feed
        shape = tuple(feed.source.image_shape)
        return _create(self.recipe, feed.mesh, shape, self.network, self._init_key)

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state."""

        def init(network, key):
            return self.recipe.create(network, key, self.feed.source.image_shape)

        arguments = (self.network, self._init_key)
        rules = _rules(self.recipe)
        return train_state.abstract(init, self.feed.mesh, *arguments, rules=rules)

    def dispatch(
        self, state: TrainState, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Makes `count` steps in one program."""
        steps = self.feed.steps(step, count)
        return _run(self.recipe, state, self.autoencoder, steps, self._draws)

    def learning_rate(self, step: int) -> float:
        """The head's."""
        return optimizers.rate_at(self.recipe.optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self.feed.seconds

    def flops(self) -> None:
        """Not counted."""


def _rules(recipe: FinetuneStep) -> parallel.Rules:
    return recipe.classifier.denoiser.network.partition_rules


@compiler.jit(once=True, static_argnames=("recipe", "mesh", "shape"))
def _create(recipe, mesh, shape, network, key):
    state = recipe.create(network, key, shape)
    shardings = parallel.state_shardings(mesh, state, _rules(recipe))
    return parallel.constrain(state, shardings)


@compiler.jit(static_argnames=("recipe",), donate_argnames=("state",))
def _run(recipe, state, autoencoder, steps: Steps, key):
    def body(state, batch):
        return recipe(state, autoencoder, batch, key)

    return each(body, state, steps, _rules(recipe))
