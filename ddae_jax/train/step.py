"""One optimiser step of pre-training as a pure function."""

import dataclasses
import itertools

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ddae_jax.data import augment, augment_edm
from ddae_jax.denoiser import Denoiser
from ddae_jax.runtime.random import name_hash, stream
from ddae_jax.train import norms, objective_state
from ddae_jax.train.feed import Batch
from ddae_jax.train.objectives.base import Examples, Images, Objective, Pass, stopped
from ddae_jax.train.optimizers import Optimizer
from ddae_jax.train.state import TrainState, averaged, ema_decay
from ddae_jax.train.window import Metrics, single

# Edges of noise level (sigma/alpha) between which the loss is logged separately.
NOISE_LEVEL_EDGES = (0.1, 0.5, 2.0)

Gradient = tuple[dict, dict[str, dict]]
"""By the parameters of the denoiser, and by those of each objective."""


def noise_level_names() -> tuple[str, ...]:
    """Names of the groups of the loss by noise level."""
    edges = ("0", *(str(edge) for edge in NOISE_LEVEL_EDGES), "inf")
    return tuple(f"{low}-{high}" for low, high in itertools.pairwise(edges))


@flax.struct.dataclass
class Keys:
    """The random streams of a training's steps.

    Attributes:
      step: of the denoising loss.
      objectives: of the terms beside it.
      posterior: of what is drawn where the set holds moments of latents.
    """

    step: PRNGKeyArray
    objectives: PRNGKeyArray
    posterior: PRNGKeyArray

    @classmethod
    def of(cls, seed: int) -> "Keys":
        """Those of a seed."""
        return cls(
            stream(seed, "train/step"),
            stream(seed, "train/objectives"),
            stream(seed, "train/posterior"),
        )


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
      objectives: (name, term of the loss beside the denoising loss).
      steps: of the whole training, by which the weights of objectives rise.
    """

    denoiser: Denoiser
    optimizer: Optimizer
    ema_cap: float = 0.9999
    ema_warmup: bool = True
    flip: bool = False
    augment_probability: float = 0.0
    conditional: bool = False
    label_dropout: float = 0.0
    objectives: tuple[tuple[str, Objective], ...] = ()
    steps: int = 1

    def __call__(
        self, state: TrainState, batch: Batch, keys: Keys
    ) -> tuple[TrainState, Metrics]:
        """Augments, draws noise and times from (keys, state.step), and optimises."""
        examples, dropout_key = self.draw(state.step, batch, keys)
        gradient, metrics = self.gradient(state, examples, dropout_key)
        return self.apply(state, gradient, metrics)

    def draw(
        self, step: Int[Array, ""], batch: Batch, keys: Keys
    ) -> tuple[Examples, PRNGKeyArray]:
        """Returns the examples of (keys, step), and the key of the dropout."""
        labels, form = batch.labels, batch.form
        key = jax.random.fold_in(keys.step, step)
        flip, warp, draw_time, draw_noise, dropout, drop_label = jax.random.split(
            key, 6
        )
        of_posterior = jax.random.fold_in(keys.posterior, step)
        draw_first, draw_another = jax.random.split(of_posterior)
        count = len(batch.images)
        flipped = None
        if self.flip:
            flip_keys = augment.example_keys(flip, jnp.arange(count))
            flipped = augment.coins(flip_keys)
        x0 = augment.to_float(form.drawn(draw_first, batch.images, flipped))
        augment_labels = None
        if self.augment_probability > 0:
            x0, augment_labels = augment_edm.augment(warp, x0, self.augment_probability)
        if not self.conditional:
            labels = None
        elif self.label_dropout > 0:
            dropped = jax.random.bernoulli(drop_label, self.label_dropout, (count,))
            labels = jnp.where(dropped, self.denoiser.network.null_label, labels)
        time = self.denoiser.process.training_times(draw_time, count)
        noise = jax.random.normal(draw_noise, x0.shape)
        examples = Examples(x0, noise, time, labels, augment_labels, flipped)
        drawn = {}
        another = form.another(draw_another, batch.images, self.flip)
        for name, objective in self.objectives:
            own_key = jax.random.fold_in(keys.objectives, name_hash(name))
            rows = {k: batch.rows[f"{name}/{k}"] for k in objective.array_names}
            drawn[name] = objective.draw(
                jax.random.fold_in(own_key, step),
                another,
                rows,
                examples,
                self.denoiser,
            )
        return examples.replace(drawn=drawn), dropout

    def optimise(
        self,
        state: TrainState,
        x0: Images,
        noise: Images,
        time: Float[Array, "batch"],
    ) -> tuple[TrainState, Metrics]:
        """One step on given noise and times, without labels and dropout."""
        gradient, metrics = self.gradient(state, Examples(x0, noise, time))
        return self.apply(state, gradient, metrics)

    def gradient(
        self,
        state: TrainState,
        examples: Examples,
        dropout_key: PRNGKeyArray | None = None,
    ) -> tuple[Gradient, Metrics]:
        """The gradient of the loss, by the parameters of the denoiser and by those of
        the objectives, and what was measured.

        The metric "loss" is the mean denoising loss, also by noise level.
        """
        own = {name: one.params for name, one in state.objectives.items()}

        def total(params, own):
            losses, student = self._forward(state, params, examples, dropout_key)
            loss, metrics = losses.mean(), {}
            for name, objective in self.objectives:
                term, found = objective(
                    own[name],
                    objective_state.teacher_of(state.objectives[name], params),
                    examples.drawn[name],
                    student,
                )
                loss += objective.weight_at(student.progress) * term
                metrics |= {f"{name}/{key}": one for key, one in found.items()}
            if self.objectives:
                metrics["total_loss"] = single(loss)
            return loss, (losses, metrics)

        gradient, (losses, metrics) = jax.grad(total, argnums=(0, 1), has_aux=True)(
            state.params, own
        )
        level = self.denoiser.process.noise_level(examples.time)
        group = jnp.searchsorted(jnp.array(NOISE_LEVEL_EDGES), level)
        metrics = {"loss": Average.from_model_output(losses)} | metrics
        for number, name in enumerate(noise_level_names()):
            member = group == number
            metrics[f"loss/{name}"] = Average.from_model_output(losses, member)
        return gradient, metrics

    def _forward(self, state, params, examples, dropout_key):
        """The denoising loss of every image, and the pass that gave it."""
        denoiser = self.denoiser
        x0, noise, time = examples.x0, examples.noise, examples.time
        names = [t for _, one in self.objectives for t in one.taps(denoiser)]
        x_t = denoiser.process.add_noise(x0, noise, time)
        output, taps = denoiser.output_and_taps(
            params,
            x_t,
            time,
            examples.labels,
            examples.augment_labels,
            dropout_key,
            tuple(dict.fromkeys(names)),
        )
        losses = denoiser.loss_of(params, output, x0, noise, x_t, time)
        student = Pass(
            params,
            stopped(state.ema),
            examples,
            x_t,
            output,
            taps,
            dropout_key,
            state.step / self.steps,
            denoiser,
        )
        return losses, student

    def apply(
        self, state: TrainState, gradient: Gradient, metrics: Metrics
    ) -> tuple[TrainState, Metrics]:
        """One optimiser step. Adds norms to the metrics.

        The metrics are those of the parameters before the step, but for their norm. The
        parameters of each objective have an optimiser of their own: the clipping of the
        denoiser's gradient does not depend on them.
        """
        with jax.named_scope("optimiser"):
            return self._applied(state, gradient, metrics)

    def _applied(self, state, gradient, metrics):
        of_denoiser, of_objectives = gradient
        updates, opt_state = self.optimizer.update(
            of_denoiser, state.opt_state, state.params
        )
        # XLA would work it out again for the parameters, the EMA and the norm.
        updates = jax.lax.optimization_barrier(updates)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema_cap, self.ema_warmup)
        ema = averaged(state.ema, params, decay)
        objectives = {}
        for name, objective in self.objectives:
            objectives[name] = objective_state.next_state(
                objective,
                state.objectives[name],
                of_objectives[name],
                params,
                self.optimizer,
            )
        params = self.denoiser.network.project(params)
        # Of the new parameters: XLA would copy the old ones to have both at hand.
        found = {
            "gradient_norm": single(norms.global_norm(of_denoiser)),
            "parameter_norm": single(norms.global_norm(params)),
            "update_norm": single(norms.global_norm(updates)),
        }
        new = TrainState(state.step + 1, params, ema, opt_state, objectives)
        return new, metrics | found
