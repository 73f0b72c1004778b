"""The optimiser of fine-tuning and one step of it, as pure functions."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from ddae_jax.data import augment
from ddae_jax.heads import linear
from ddae_jax.tasks.finetune.classifier import Classifier
from ddae_jax.tasks.finetune.mixing import Mixing, smooth_targets
from ddae_jax.train.state import TrainState, ema_decay


def warmup_cosine(
    learning_rate: float, warmup_steps: int, steps: int
) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Linear from learning_rate / warmup_steps at step 0, then a half cosine to 0."""

    def schedule(step):
        rising = (step + 1) / max(warmup_steps, 1)
        done = (step - warmup_steps) / max(steps - warmup_steps, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return learning_rate * jnp.where(step < warmup_steps, rising, falling)

    return schedule


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


def adamw(
    schedule: optax.Schedule, weight_decay: float, clip_norm: float, factors: dict
) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) behind a limit on the gradient, with rates by layer."""
    by_layer = optax.stateless(
        lambda updates, params: jax.tree.map(jnp.multiply, updates, factors)
    )
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, mask=decayed),
        by_layer,
        optax.scale_by_learning_rate(schedule),
    )


@dataclasses.dataclass(frozen=True)
class FinetuneStep:
    """The recipe of fine-tuning.

    Attributes:
      classifier: what is trained.
      optimizer: `adamw`.
      class_count: of the labels.
      ema_cap: largest decay of the EMA, which warms up as in pre-training.
      flip: mirror images at random.
      crop: images are shifted by up to this many pixels; 0 for none.
      mixing: mixup and CutMix.
      label_smoothing: share of each target spread over all classes.
    """

    classifier: Classifier
    optimizer: optax.GradientTransformation
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
        params = {"network": network, "head": head}
        # A copy: donation would free an aliased buffer twice.
        ema = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), params, ema, self.optimizer.init(params))

    def __call__(
        self,
        state: TrainState,
        autoencoder: dict | None,
        images: UInt8[Array, "batch height width channels"],
        labels: Int[Array, "batch"],
        key: PRNGKeyArray,
    ) -> tuple[TrainState, dict[str, Array]]:
        """Augments, mixes and adds noise by (key, place of the image), then optimises.

        Every batch gets fresh noise. Returns the state, and the loss and the gradient's
        norm before the step.
        """
        flip, crop, noise, mix, dropout = jax.random.split(key, 5)
        batch = len(images)
        positions = state.step * batch + jnp.arange(batch)
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
            return optax.softmax_cross_entropy(logits, targets).mean()

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        updates, opt_state = self.optimizer.update(
            gradient, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema_cap, warmup=True)
        # In this form parameters that never change stay bitwise what they are.
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        network = self.classifier.denoiser.network
        params = params | {"network": network.project(params["network"])}
        metrics = {"loss": loss, "gradient_norm": optax.global_norm(gradient)}
        return TrainState(state.step + 1, params, ema, opt_state), metrics
