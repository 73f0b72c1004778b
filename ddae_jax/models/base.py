"""The contract of denoising networks, and what is the same for all of them."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.runtime.parallel import Rules
from ddae_jax.settings import fields
from ddae_jax.settings.fields import setting, unknown
from ddae_jax.settings.source_search import AUTO, DEFAULT


class Trainable(nn.Module):
    """A module that says which of its parameters training must leave as they are.

    Attributes:
      fixed_parameters: their paths in the parameter tree, joined by "/".
    """

    fixed_parameters: ClassVar[tuple[str, ...]] = ()

    def trainable(self, params: dict) -> dict:
        """Returns a tree like `params`: whether training may change each leaf."""
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        return flax.traverse_util.unflatten_dict(
            {path: path not in self.fixed_parameters for path in flat}, sep="/"
        )


class Network(Trainable, abc.ABC):
    """A denoising network: noisy images, time and condition to its raw output.

    A network is a subclass whose fields are declared with `settings.fields.setting`
    (all but `dtype`); the config, `--help` and the bounds are read off them. It writes
    `tap_paths`, `tiny` and `__call__`, and overrides those of the members below whose
    default is not true of it, by a field or a property.

    Attributes:
      image_channels: channels of the images; None takes those of the images given.
      dtype: of the computation; parameters and outputs are float32.
      mesh: of the devices, where they share each attention and MLP (tensor parallel).
      fixed_parameters: see `Trainable`; counts of parameters leave them out.
      num_classes: classes that labels can name, without the null class; 0 for an
        unconditional network.
      null_label: the label that stands for no class; None where there is none.
      augment_channels: numbers in an augmentation label; 0 where none is taken.
      extra_tokens: tokens of a tap that come before those of the image.
      learned_variance: the output has twice the channels of the images: the noise, then
        where the variance of a sampling step lies.
      uncertainty: the network learns the log-variance of its loss (`log_variance`).
      self_condition: settings of self-conditioning, a field of networks that have it.
      summary_token: whether its summary can be "cls", a learned token.
      partition_rules: which axis of which parameters the devices of the mesh's axis
        "tensor" share; the rest lies as `parallel.state_shardings` has it. Empty: the
        network cannot be shared so.
      heads: of its attention, which those devices share out; 0 where there are no
        `partition_rules`.
    """

    image_channels: int | None = setting(
        None, "channels of the images; None takes the data's", least=1, most=1024
    )
    dtype: Any = jnp.float32
    # Not shown: no result follows from how devices share the work.
    mesh: Mesh | None = dataclasses.field(default=None, repr=False)

    num_classes: ClassVar[int] = 0
    null_label: ClassVar[int | None] = None
    augment_channels: ClassVar[int] = 0
    extra_tokens: ClassVar[int] = 0
    learned_variance: ClassVar[bool] = False
    uncertainty: ClassVar[bool] = False
    self_condition: ClassVar[SelfConditioning] = SelfConditioning()
    summary_token: ClassVar[bool] = False
    partition_rules: ClassVar[Rules] = ()
    heads: ClassVar[int] = 0

    def __post_init__(self):
        fields.check_all(type(self).__name__, self)
        super().__post_init__()

    @abc.abstractmethod
    def tap_paths(self) -> dict[str, str]:
        """Maps each tap to the path of its submodule ("/"-joined), in order of depth.

        The output of the submodule's `__call__` is the tap: (batch, height, width,
        channels), or (batch, tokens, features) with `extra_tokens` first, then the
        image's tokens row by row.
        """

    @abc.abstractmethod
    def tiny(self) -> Self:
        """A copy of the same kind that runs in seconds, on images of 8x8.

        It keeps what decides the path through the code (conditions, resampling,
        attention, learned variance, ...) and has the least width and depth that can.
        """

    @abc.abstractmethod
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        time: Float[Array, "batch"],
        labels: Int[Array, "batch"] | None = None,
        augment_labels: Float[Array, "batch augment"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width out_channels"]:
        """Returns the raw output.

        Args:
          images: noisy, as `Process.network_inputs` scales them.
          time: as `Process.network_inputs` gives it.
          labels: classes, or `null_label`; None is the null class where there is one.
          augment_labels: what was done to each image; None is nothing.
          train: drop at random, by the rng stream "dropout".

        Raises:
          UserError: the network cannot take what it is given.
        """

    def self_condition_taps(self) -> tuple[str, ...]:
        """Taps that can be the source of self-conditioning, in order of depth.

        Those after which something takes the condition: each submodule once, by its
        first name. By default none.
        """
        return ()

    @property
    def self_condition_default(self) -> str:
        """Which of them it is where `self_condition.tap` is "default"; our choice."""
        return ""

    def self_condition_source(self) -> str:
        """Returns the tap that is the source of self-conditioning, "" where it is off.

        Raises:
          UserError: see `check_self_condition`; or the tap is "auto", not yet chosen.
        """
        self.check_self_condition()
        tap = self.self_condition.tap
        if tap == AUTO:
            raise UserError(
                "network.self_condition.tap is auto: pretraining chooses it; name one "
                f"of {', '.join(self.self_condition_taps())}"
            )
        return self.self_condition_default if tap == DEFAULT else tap

    def self_condition_path(self) -> str | None:
        """Path of the source's submodule; None where self-conditioning is off."""
        return self.tap_paths().get(self.self_condition_source())

    def check_self_condition(self, where: str = "network.self_condition") -> None:
        """Raises a UserError, which names `where`, for settings that it cannot have.

        That is an unknown tap, one after which nothing takes the condition, or a
        summary token in a network that has no tokens.
        """
        asked, paths = self.self_condition, self.tap_paths()
        if not asked.tap:
            return
        if asked.token and not self.summary_token:
            raise UserError(
                f"{where}.summary: cls is a token of a transformer, and "
                f"{type(self).__name__} has none: take mean"
            )
        possible = self._self_condition_names()
        tap = self.self_condition_default if asked.tap == DEFAULT else asked.tap
        if tap in paths and tap not in possible:
            raise UserError(
                f"{where}.tap: nothing after {tap} takes the condition. Known: "
                f"{', '.join(possible)}"
            )
        if tap not in possible and tap != AUTO:
            raise UserError(unknown(f"{where}.tap", tap, (*possible, DEFAULT, AUTO)))

    def at_same_depth(self, other: Self) -> Self:
        """`other` with its source of self-conditioning as deep in it as here in this.

        For `tiny`: what is no tap of this network stays as it is.
        """
        before, after = self._self_condition_names(), other.self_condition_taps()
        tap = self.self_condition.tap
        if tap not in before:
            return other
        order = [self.tap_paths()[name] for name in self.self_condition_taps()]
        depth = order.index(before[tap]) / max(len(order) - 1, 1)
        moved = after[round(depth * (len(after) - 1))]
        settings = dataclasses.replace(self.self_condition, tap=moved)
        return other.clone(self_condition=settings)

    def _self_condition_names(self) -> dict[str, str]:
        """All names of the possible sources -> path."""
        paths = self.tap_paths()
        possible = {paths[tap] for tap in self.self_condition_taps()}
        return {tap: path for tap, path in paths.items() if path in possible}

    def check_tensor_parallel(self, devices: int) -> None:
        """Raises a UserError where so many devices cannot share each attention."""
        name = type(self).__name__
        if devices > 1 and not self.partition_rules:
            raise UserError(
                f"config.mesh.tensor: {devices}, but {name} has no rules for that: "
                "take 1 (config.mesh.fsdp shares the parameters of any network)"
            )
        if self.heads % devices:
            raise UserError(
                f"config.mesh.tensor: {devices} devices cannot share the "
                f"{self.heads} attention heads of {name}"
            )

    def project(self, params: dict) -> dict:
        """Returns what training puts in place of `params`, at first and after a step.

        The network's function must stay the same. By default, `params` as they are.
        """
        return params

    def log_variance(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the learned log-variance of the loss at the network's `time`.

        It is asked for where `uncertainty` is true.
        """
        return jnp.zeros_like(time)

    def check_inputs(
        self,
        images: Float[Array, "batch height width channels"],
        labels: Int[Array, "batch"] | None,
        augment_labels: Float[Array, "batch augment"] | None,
    ) -> None:
        """Raises a UserError for images or labels that the network is not made for."""
        channels = images.shape[-1]
        if self.image_channels not in (None, channels):
            raise UserError(
                f"the network takes {self.image_channels} channels "
                f"(network.image_channels), the images have {channels}"
            )
        name = type(self).__name__
        if labels is not None and not self.num_classes:
            raise UserError(f"this {name} has num_classes=0: it takes no class labels")
        if augment_labels is not None and not self.augment_channels:
            raise UserError(
                f"this {name} has augment_channels=0: it takes no augmentation labels"
            )


def attention_setting() -> Any:
    """Declares the field `attention_implementation`."""
    return setting(
        None,
        "implementation of jax.nn.dot_product_attention; None chooses",
        choices=("xla", "cudnn"),
    )


def check_levels(channel_multipliers: Sequence[int], attention: Sequence[bool]) -> None:
    """Raises a UserError unless both have one value per level of a UNet."""
    if len(attention) != len(channel_multipliers):
        raise UserError(
            f"attention is given for {len(attention)} levels, channel_multipliers for "
            f"{len(channel_multipliers)}"
        )


def check_sides(
    images: Float[Array, "batch height width channels"], factor: int, name: str
) -> None:
    """Raises a UserError unless height and width are multiples of `factor`."""
    height, width = images.shape[1:3]
    if height % factor or width % factor:
        raise UserError(
            f"images of {height}x{width} pixels: the {name} needs multiples of {factor}"
        )
