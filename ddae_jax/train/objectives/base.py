"""The contract of a training objective: one term of the loss of pre-training."""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ddae_jax.data.source import Source
from ddae_jax.denoiser import Denoiser
from ddae_jax.settings import fields
from ddae_jax.settings.fields import setting
from ddae_jax.settings.limits import WEIGHT
from ddae_jax.train.window import Metrics

Images = Float[Array, "batch height width channels"]


@flax.struct.dataclass
class Examples:
    """What a step learns from, all drawn.

    Attributes:
      x0: images in [-1, 1], augmented.
      noise: standard normal.
      time: the process's own.
      labels: classes; None in unconditional training.
      augment_labels: what was augmented, for networks that are told.
      flipped: whether an image was mirrored by `train.flip`; None where none is.
      drawn: objective -> what it drew for itself, with a leading axis of the batch.
    """

    x0: Images
    noise: Images
    time: Float[Array, "batch"]
    labels: Int[Array, "batch"] | None = None
    augment_labels: Float[Array, "batch augment"] | None = None
    flipped: Num[Array, "batch"] | None = None
    drawn: Mapping[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Pass:
    """The denoiser's forward pass over a batch in training mode, and what it came from.

    Attributes:
      params: of the denoiser; gradients flow to them.
      ema: their average, which samples and features use; no gradient flows.
      examples: what went in.
      x_t: the noisy images.
      output: the network's raw output.
      taps: name -> intermediate output, of those that the objectives asked for.
      dropout_key: of the pass; None without dropout. Another pass folds into it.
      progress: share of the training that is done, in [0, 1).
      denoiser: the network and its process.
    """

    params: dict
    ema: dict
    examples: Examples
    x_t: Images
    output: Images
    taps: Mapping[str, Array]
    dropout_key: PRNGKeyArray | None
    progress: Float[Array, ""]
    denoiser: Denoiser = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What an objective is to be trained with, before anything is compiled.

    Attributes:
      denoiser: the network and its process.
      source: the training set.
      conditional: whether the network is given the classes.
      label_dropout: share of the images whose class it is not given.
      augment_probability: of each EDM augmentation.
      features_of: folder of a feature network -> file with its features of the set.
    """

    denoiser: Denoiser
    source: Source
    conditional: bool
    label_dropout: float
    augment_probability: float
    features_of: Callable[[pathlib.Path], pathlib.Path]


@dataclasses.dataclass(frozen=True)
class Watch:
    """How features are watched while they are trained.

    Attributes:
      tap: whose.
      noise_level: sigma/alpha under which they are taken.
      collapse_rank: effective rank below which they have collapsed.
      stop: end the run then; else it is said once.
    """

    tap: str
    noise_level: float
    collapse_rank: float
    stop: bool


def on_setting() -> Any:
    """Declares the field `on`."""
    return setting(False, "add this term to the training loss")


def weight_setting(default: float) -> Any:
    """Declares the field `weight`."""
    return setting(
        default, "of the term, beside the denoising loss's 1", least=0, most=WEIGHT
    )


def warmup_setting(default: float) -> Any:
    """Declares the field `warmup`."""
    return setting(
        default,
        "share of train.steps over which the weight rises linearly from 0",
        least=0,
        most=1,
    )


class Objective(abc.ABC):
    """A term of the loss beside the denoising loss.

    An objective is a frozen dataclass of this class; its fields are declared with
    `settings.fields.setting`, and `on`, `weight` and `warmup` are three of them. They
    are the config's section `objectives.NAME`, for the name that it is registered by.

    Attributes:
      on, weight, warmup: see the settings of the same names.
      compares_images: whether its value depends on which images are in a batch
        together, so that a batch cannot be worked off in parts.
      teacher_decay: of the average of the denoiser, and of what is named next.
      array_names: of what `arrays` gives.
      averaged: names in `init`'s tree of what is averaged with it.
    """

    on: bool
    weight: float
    warmup: float
    compares_images: ClassVar[bool] = False
    array_names: ClassVar[tuple[str, ...]] = ()
    averaged: ClassVar[tuple[str, ...]] = ()
    teacher_decay: float = 0.0

    def __post_init__(self):
        fields.check_all(type(self).__name__, self)

    @abc.abstractmethod
    def taps(self, denoiser: Denoiser) -> tuple[str, ...]:
        """Names of the taps that it reads of the training pass."""

    def check(self, setup: Setup) -> None:
        """Raises a UserError, which begins with the field, where it cannot be had."""
        return

    def arrays(self, setup: Setup) -> dict[str, np.ndarray]:
        """What belongs to images and comes with them: arrays in the set's order.

        A batch brings its rows; `draw` takes them.

        Raises:
          UserError: a file is missing, damaged, or of another data set.
        """
        return {}

    def init(
        self,
        key: PRNGKeyArray,
        denoiser: Denoiser,
        taps: Mapping[str, jax.ShapeDtypeStruct],
        rows: Mapping[str, jax.ShapeDtypeStruct],
    ) -> dict:
        """Draws the parameters that it trains beside the denoiser's; {}: none.

        Args:
          taps: shapes of all taps of one image, by name.
          rows: of one image's rows of its `arrays`, without an axis of the batch.
        """
        return {}

    def averaged_tap(self, denoiser: Denoiser) -> str:
        """The tap up to which it keeps an average of the denoiser; empty: none."""
        return ""

    def draw(
        self,
        key: PRNGKeyArray,
        images: Num[Array, "batch height width channels"],
        rows: Mapping[str, Array],
        examples: Examples,
        denoiser: Denoiser,
    ) -> Any:
        """Draws what it needs for a batch: a tree with a leading axis of the batch.

        Args:
          key: of this objective and this step.
          images: uint8, as they are in the set; of latents, another draw of x0.
          rows: of its `arrays`.
          examples: of the denoising loss.
        """
        return {}

    def watch(self, denoiser: Denoiser) -> Watch | None:
        """How a tap is watched that this term may collapse; None: not at all."""
        return None

    @abc.abstractmethod
    def __call__(
        self, own: dict, teacher: dict, drawn: Any, student: Pass
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the term, not yet weighted, and its metrics.

        Args:
          own: parameters of `init`; gradients flow to them.
          teacher: "denoiser": the average up to `averaged_tap`, as a whole tree of
            parameters; and by their names those that are `averaged`. No gradient
            flows. {}: it keeps none.
          drawn: by `draw`.
        """

    def weight_at(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """The weight when this share of the training is done."""
        if not self.warmup:
            return jnp.float32(self.weight)
        return self.weight * jnp.minimum(progress / self.warmup, 1.0)


def tap_at(denoiser: Denoiser, depth: float) -> str:
    """The tap at this share of the way from the first to the last."""
    names = tuple(denoiser.network.tap_paths())
    return names[round(depth * (len(names) - 1))]


def stopped(tree: Any) -> Any:
    """The tree without gradients."""
    return jax.tree.map(jax.lax.stop_gradient, tree)
