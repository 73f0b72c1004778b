"""One optimiser step as a pure function, and the trainer that makes such steps."""

import dataclasses
import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average
from einops import rearrange
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ddae_jax.data import augment, augment_edm
from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime import compiler, parallel
from ddae_jax.runtime.random import stream
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed, Steps, each
from ddae_jax.train.optimizers import Optimizer
from ddae_jax.train.state import TrainState, ema_decay
from ddae_jax.train.window import Metrics, single, stacked

# Edges of noise level (sigma/alpha) between which the loss is logged separately.
NOISE_LEVEL_EDGES = (0.1, 0.5, 2.0)

Images = Float[Array, "batch height width channels"]


def noise_level_names() -> tuple[str, ...]:
    """Names of the groups of the loss by noise level."""
    edges = ("0", *(str(edge) for edge in NOISE_LEVEL_EDGES), "inf")
    return tuple(f"{low}-{high}" for low, high in itertools.pairwise(edges))


@flax.struct.dataclass
class Examples:
    """What a step learns from, all drawn.

    Attributes:
      x0: images in [-1, 1], augmented.
      noise: standard normal.
      time: the process's own.
      labels: classes; None in unconditional training.
      augment_labels: what was augmented, for networks that are told.
    """

    x0: Images
    noise: Images
    time: Float[Array, "batch"]
    labels: Int[Array, "batch"] | None = None
    augment_labels: Float[Array, "batch augment"] | None = None


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The training recipe around a denoiser.

    Attributes:
      denoiser: what is trained.
      optimizer: with the clipping of the gradient.
      ema_cap: largest decay of the EMA.
      ema_warmup: whether the decay warms up.
      flip: mirror images at random.
      augment_probability: of each EDM augmentation; 0 for none.
      conditional: give the network the classes.
      label_dropout: share of labels replaced by the network's `null_label`.
    """

    denoiser: Denoiser
    optimizer: Optimizer
    ema_cap: float = 0.9999
    ema_warmup: bool = True
    flip: bool = False
    augment_probability: float = 0.0
    conditional: bool = False
    label_dropout: float = 0.0

    def __call__(
        self,
        state: TrainState,
        images: Num[Array, "batch height width channels"],
        labels: Int[Array, "batch"],
        key: PRNGKeyArray,
    ) -> tuple[TrainState, Metrics]:
        """Augments, draws noise and times from (key, state.step), and optimises.

        Args:
          images: uint8.
          labels: classes; unused in unconditional training.
        """
        examples, dropout_key = self.draw(state.step, images, labels, key)
        gradient, metrics = self.gradient(state.params, examples, dropout_key)
        return self.apply(state, gradient, metrics)

    def draw(
        self,
        step: Int[Array, ""],
        images: Num[Array, "batch height width channels"],
        labels: Int[Array, "batch"],
        key: PRNGKeyArray,
    ) -> tuple[Examples, PRNGKeyArray]:
        """Returns the examples of (key, step), and the key of the dropout."""
        key = jax.random.fold_in(key, step)
        flip, warp, draw_time, draw_noise, dropout, drop_label = jax.random.split(
            key, 6
        )
        batch = len(images)
        positions = jnp.arange(batch)
        if self.flip:
            images = augment.random_flip(augment.example_keys(flip, positions), images)
        x0 = augment.to_float(images)
        augment_labels = None
        if self.augment_probability > 0:
            x0, augment_labels = augment_edm.augment(warp, x0, self.augment_probability)
        if not self.conditional:
            labels = None
        elif self.label_dropout > 0:
            dropped = jax.random.bernoulli(drop_label, self.label_dropout, (batch,))
            labels = jnp.where(dropped, self.denoiser.network.null_label, labels)
        time = self.denoiser.process.training_times(draw_time, batch)
        noise = jax.random.normal(draw_noise, x0.shape)
        return Examples(x0, noise, time, labels, augment_labels), dropout

    def optimise(
        self,
        state: TrainState,
        x0: Images,
        noise: Images,
        time: Float[Array, "batch"],
    ) -> tuple[TrainState, Metrics]:
        """One step on given noise and times, without labels and dropout."""
        gradient, metrics = self.gradient(state.params, Examples(x0, noise, time))
        return self.apply(state, gradient, metrics)

    def gradient(
        self,
        params: dict,
        examples: Examples,
        dropout_key: PRNGKeyArray | None = None,
    ) -> tuple[dict, Metrics]:
        """The gradient of the mean loss, and the loss, also by noise level."""

        def mean_loss(params):
            losses = self.denoiser.loss(
                params,
                examples.x0,
                examples.noise,
                examples.time,
                examples.labels,
                examples.augment_labels,
                dropout_key,
            )
            return losses.mean(), losses

        gradient, losses = jax.grad(mean_loss, has_aux=True)(params)
        level = self.denoiser.process.noise_level(examples.time)
        group = jnp.searchsorted(jnp.array(NOISE_LEVEL_EDGES), level)
        metrics = {"loss": Average.from_model_output(losses)}
        for number, name in enumerate(noise_level_names()):
            member = group == number
            metrics[f"loss/{name}"] = Average.from_model_output(losses, member)
        return gradient, metrics

    def apply(
        self, state: TrainState, gradient: dict, metrics: Metrics
    ) -> tuple[TrainState, Metrics]:
        """One optimiser step. Adds norms to the metrics.

        The metrics are those of the parameters before the step.
        """
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema_cap, self.ema_warmup)
        # In this form parameters that never change stay bitwise what they are.
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        params = self.denoiser.network.project(params)
        norms = {
            "gradient_norm": single(optax.global_norm(gradient)),
            "parameter_norm": single(optax.global_norm(state.params)),
            "update_norm": single(optax.global_norm(updates)),
        }
        return TrainState(state.step + 1, params, ema, opt_state), metrics | norms


class Pretraining:
    """Pre-training as a `loop.Trainer`.

    Attributes:
      recipe: of one step.
      feed: the images.
      accumulate: the batch is worked off in this many parts of equal size, whose
        gradients are averaged: the device's memory need only hold one.
    """

    def __init__(self, recipe: TrainStep, feed: Feed, accumulate: int = 1):
        self.recipe, self.feed, self.accumulate = recipe, feed, accumulate
        self._draws = stream(feed.seed, "train/step")
        self._shapes = None

    def create(self) -> TrainState:
        """No device ever holds a whole state that is to be sharded."""
        recipe, mesh = self.recipe, self.feed.mesh
        params = train_state.initial_parameters(
            recipe.denoiser,
            stream(self.feed.seed, "train/init"),
            self.feed.source.image_shape,
            jax.tree.map(lambda leaf: leaf.sharding, self.abstract().params),
        )
        return train_state.placed_first_state(params, recipe.optimizer, mesh)

    def abstract(self) -> TrainState:
        """Shapes and shardings of the state."""
        recipe, shape = self.recipe, self.feed.source.image_shape
        init = train_state.create(recipe.denoiser, recipe.optimizer, shape)
        return train_state.abstract(init, self.feed.mesh, jax.random.key(0))

    def dispatch(
        self, state: TrainState, step: int, count: int
    ) -> tuple[TrainState, Metrics]:
        """Makes `count` steps, in one program where nothing is accumulated."""
        if self.accumulate > 1:
            return self._accumulated(state, step, count)
        steps = self.feed.steps(step, count)
        if self._shapes is None:
            self._shapes = jax.tree.map(_shape, (state, steps))
        return _run(self.recipe, state, steps, self._draws)

    def learning_rate(self, step: int) -> float:
        """The optimiser's."""
        return optimizers.rate_at(self.recipe.optimizer, step)

    def flops(self) -> float | None:
        """As XLA counts them; not where a step is several programs."""
        if self._shapes is None:
            return None
        # XLA counts the body of a loop once, and that is one step.
        lowered = _run.lower(self.recipe, *self._shapes, self._draws)
        counted = (lowered.cost_analysis() or {}).get("flops")
        return counted or self._flops_on_cpu()

    def _flops_on_cpu(self):
        """Where the backend itself does not count them."""
        state, _ = self._shapes
        batch = (self.feed.batch_size, *self.feed.source.image_shape)
        images = jax.ShapeDtypeStruct(batch, np.uint8)
        labels = jax.ShapeDtypeStruct(batch[:1], np.int32)
        return compiler.flops_on_cpu(self.recipe, state, images, labels, self._draws)

    def _accumulated(self, state, step, count):
        # Several programs, not one loop: XLA:CPU runs what is in loops on one thread.
        recipe, rows = self.recipe, []
        for number in range(step, step + count):
            batch = self.feed.batch(number)
            parts, dropout = _parts(
                recipe, self.accumulate, self.feed.mesh, state.step, batch, self._draws
            )
            total = None
            for part in range(self.accumulate):
                new = _gradient(recipe, state.params, parts, part, dropout)
                total = new if total is None else _sum(total, new)
            state, metrics = _apply(
                recipe, self.feed.mesh, self.accumulate, state, *total
            )
            rows.append(metrics)
        return state, stacked(rows)


def _shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@compiler.jit(static_argnames=("recipe",), donate_argnames=("state",))
def _run(recipe: TrainStep, state: TrainState, steps: Steps, key: PRNGKeyArray):
    def body(state, batch):
        return recipe(state, batch.images, batch.labels, key)

    return each(body, state, steps)


@compiler.jit(static_argnames=("recipe", "count", "mesh"))
def _parts(recipe, count, mesh, step, batch: Batch, key):
    """The examples of a step, (part, batch / count, ...), and the key of dropout."""
    examples, dropout = recipe.draw(step, batch.images, batch.labels, key)
    # A part takes every n-th example: so each device keeps its own.
    parts = jax.tree.map(
        lambda leaf: rearrange(leaf, "(n p) ... -> p n ...", p=count), examples
    )
    return parallel.constrain(parts, parallel.batch_sharding(mesh, axis=1)), dropout


@compiler.jit(static_argnames=("recipe",))
def _gradient(recipe, params, parts, number, dropout):
    part = jax.tree.map(lambda leaf: leaf[number], parts)
    return recipe.gradient(params, part, jax.random.fold_in(dropout, number))


@compiler.jit(donate_argnums=(0,))
def _sum(total, new):
    gradient = jax.tree.map(jnp.add, total[0], new[0])
    metrics = {name: metric.merge(new[1][name]) for name, metric in total[1].items()}
    return gradient, metrics


@compiler.jit(static_argnames=("recipe", "mesh", "count"), donate_argnames=("state",))
def _apply(recipe, mesh, count, state, gradient, metrics):
    gradient = jax.tree.map(lambda leaf: leaf / count, gradient)
    state, metrics = recipe.apply(state, gradient, metrics)
    state = parallel.constrain(state, parallel.state_shardings(mesh, state))
    return state, parallel.constrain(metrics, parallel.replicated(mesh))
