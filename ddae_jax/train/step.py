"""One optimiser step, as a pure function."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ddae_jax.data import augment, augment_edm
from ddae_jax.denoiser import Denoiser
from ddae_jax.train.state import TrainState, ema_decay

# Edges of noise level (sigma/alpha) between which the loss is logged separately.
NOISE_LEVEL_EDGES = (0.1, 0.5, 2.0)

Images = Float[Array, "batch height width channels"]


def noise_level_names() -> tuple[str, ...]:
    """Names of the groups of the loss by noise level."""
    edges = ("0", *(str(edge) for edge in NOISE_LEVEL_EDGES), "inf")
    return tuple(f"{low}-{high}" for low, high in itertools.pairwise(edges))


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The training recipe around a denoiser.

    Attributes:
      denoiser: what is trained.
      optimizer: including the limit on the gradient.
      ema_cap: largest decay of the EMA.
      ema_warmup: whether the decay warms up.
      flip: mirror images at random.
      augment_probability: of each EDM augmentation; 0 for none.
      conditional: give the network the classes.
      label_dropout: share of labels replaced by the network's `null_label`.
    """

    denoiser: Denoiser
    optimizer: optax.GradientTransformation
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
    ) -> tuple[TrainState, dict[str, Array]]:
        """Augments, draws noise and times from (key, state.step), and optimises.

        Args:
          images: uint8.
          labels: classes; unused in unconditional training.
        """
        key = jax.random.fold_in(key, state.step)
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
        return self.optimise(state, x0, noise, time, labels, augment_labels, dropout)

    def optimise(
        self,
        state: TrainState,
        x0: Images,
        noise: Images,
        time: Float[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on given noise and times. Returns the state and the metrics.

        The metrics are those of the parameters before the step.
        """

        def mean_loss(params):
            losses = self.denoiser.loss(
                params, x0, noise, time, labels, augment_labels, dropout_key
            )
            return losses.mean(), losses

        (loss, losses), gradient = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params
        )
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema_cap, self.ema_warmup)
        # In this form parameters that never change stay bitwise what they are.
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        params = self.denoiser.network.project(params)
        level = self.denoiser.process.noise_level(time)
        group = jnp.searchsorted(jnp.array(NOISE_LEVEL_EDGES), level)
        member = jax.nn.one_hot(group, len(NOISE_LEVEL_EDGES) + 1)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.global_norm(gradient),
            "parameter_norm": optax.global_norm(state.params),
            "update_norm": optax.global_norm(updates),
            "loss_sums": losses @ member,
            "loss_counts": member.sum(axis=0),
        }
        return TrainState(state.step + 1, params, ema, opt_state), metrics
