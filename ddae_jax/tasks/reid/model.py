"""What gives the features of persons: a backbone, then AlignedReID's head on its map.

A backbone is frozen and hashable, its arrays apart. Where it is not trained they are
among what is `fixed`, else in the state.
"""

import dataclasses
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ddae_jax.data.augment import to_float
from ddae_jax.denoiser import Denoiser
from ddae_jax.features.encode import example_noise
from ddae_jax.features.spatial import GridEncoder
from ddae_jax.heads.aligned import AlignedFeatures, AlignedHead
from ddae_jax.models.batch_norm import RunningBatchNorm
from ddae_jax.models.imagenet_input import imagenet_input
from ddae_jax.models.layers import linear
from ddae_jax.models.resnet import ResNet
from ddae_jax.runtime.parallel import Rules
from ddae_jax.tasks.finetune.classifier import complete

Images = Float[Array, "batch height width channels"]
Map = Float[Array, "batch rows columns features"]


class Backbone(Protocol):
    """Gives a map of features over an image."""

    @property
    def rules(self) -> Rules:
        """How its parameters lie on the mesh's axis "tensor"."""

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the noise that one image takes; None: none."""

    def map(
        self,
        variables: dict,
        beside: dict | None,
        images: Images,
        noise: Images | None,
        train: bool,
    ) -> tuple[Map, dict]:
        """Returns the map, and the batch statistics after it.

        Args:
          variables: its "params", and "batch_stats" where it has such.
          beside: of an autoencoder before it.
          images: in [-1, 1].
        """

    def project(self, params: dict) -> dict:
        """What training puts in place of its parameters after a step."""


@dataclasses.dataclass(frozen=True)
class ResNetBackbone:
    """A ResNet of clean images, normalised as ImageNet's."""

    network: ResNet
    rules: Rules = ()

    def noise_shape(self, image_shape: tuple[int, ...]) -> None:
        """It takes none."""

    def init(self, key: PRNGKeyArray, image_shape: tuple[int, ...]) -> dict:
        """Random variables."""
        images = jnp.zeros((1, *image_shape[:2], 3))
        return dict(self.network.init(key, images, train=False))

    def map(
        self,
        variables: dict,
        beside: dict | None,
        images: Images,
        noise: Images | None,
        train: bool,
    ) -> tuple[Map, dict]:
        """See `Backbone`."""
        inputs = imagenet_input(images)
        if not train:
            found = self.network.apply(variables, inputs, train=False)
            return found, variables["batch_stats"]
        found, changed = self.network.apply(
            variables, inputs, train=True, mutable=["batch_stats"]
        )
        return found, changed["batch_stats"]

    def project(self, params: dict) -> dict:
        """They stay as they are."""
        return params


@dataclasses.dataclass(frozen=True)
class DenoiserBackbone:
    """A denoiser up to a tap, in the layout of the image, of noisy images.

    Attributes:
      denoiser: the network and its process.
      encode: the tap of it, after an autoencoder where there is one.
      tap: its name.
      time: the process's own.
      shape: of what the denoiser takes.
      latents: whether there is an autoencoder.
    """

    denoiser: Denoiser
    encode: GridEncoder
    tap: str
    time: float
    shape: tuple[int, int, int]
    latents: bool = False

    @property
    def rules(self) -> Rules:
        """The network's."""
        return self.denoiser.network.partition_rules

    def noise_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the denoiser's input; of latents, the posterior's too."""
        return self.encode.noise_shape(tuple(image_shape))

    def map(
        self,
        variables: dict,
        beside: dict | None,
        images: Images,
        noise: Images | None,
        train: bool,
    ) -> tuple[Map, dict]:
        """See `Backbone`; without dropout in training too."""
        params = complete(self.denoiser, variables["params"], self.shape)
        if self.latents:
            params = {"denoiser": params, "autoencoder": beside}
        found = self.encode(params, images, noise, jnp.float32(self.time))
        return found[self.tap], {}

    def project(self, params: dict) -> dict:
        """As the network asks."""
        return self.denoiser.network.project(params)


class LinearProjection(nn.Module):
    """A linear map of every position, normalised over the batch.

    Features that are not trained get a trained global feature by it.
    """

    features: int

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> Map:
        """Returns (batch, rows, columns, features)."""
        x = x.astype(jnp.float32)
        reduce = linear(x.shape[-1], self.features, use_bias=False, name="reduce")
        return RunningBatchNorm(name="norm")(reduce(x), train=train)


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A backbone under a head, as one function.

    Its parameters are {"backbone", "projection", "head"}; the first is only there where
    the backbone is trained, the second where there is one. So are its statistics.

    Attributes:
      backbone: gives the map.
      head: of the map.
      projection: channels of a `LinearProjection` between both; 0: none.
      frozen: the backbone's variables are in `fixed`.
    """

    backbone: ResNetBackbone | DenoiserBackbone
    head: AlignedHead
    projection: int
    frozen: bool

    def init(
        self,
        key: PRNGKeyArray,
        image_shape: tuple[int, ...],
        given: dict | None,
        fixed: dict,
    ) -> tuple[dict, dict]:
        """Returns first (parameters, statistics).

        Args:
          given: variables of a trained backbone to start from; None: random ones.
          fixed: as for `__call__`.
        """
        keys = jax.random.split(key, 3)
        params, statistics = {}, {}
        if not self.frozen:
            # A copy: donation would free an aliased buffer twice.
            variables = jax.tree.map(jnp.copy, given)
            if given is None:
                variables = self.backbone.init(keys[0], image_shape)
            params["backbone"] = self.backbone.project(variables["params"])
            statistics["backbone"] = variables.get("batch_stats", {})
        images = jnp.zeros((1, *image_shape))
        noise_shape = self.backbone.noise_shape(image_shape)
        noise = None if noise_shape is None else jnp.zeros((1, *noise_shape))
        shape = jax.eval_shape(
            lambda: self._map(params, statistics, fixed, images, noise, False)[0]
        ).shape
        parts = {"head": (self.head, keys[1], shape)}
        if self.projection:
            module = LinearProjection(self.projection)
            parts["projection"] = (module, keys[2], shape)
            parts["head"] = (self.head, keys[1], (*shape[:-1], self.projection))
        for name, (module, own, wanted) in parts.items():
            made = module.init(own, jnp.zeros(wanted), train=False)
            params[name] = made["params"]
            statistics[name] = made["batch_stats"]
        return params, statistics

    def __call__(
        self,
        params: dict,
        statistics: dict,
        fixed: dict,
        images: Images,
        noise: Images | None,
        train: bool,
    ) -> tuple[AlignedFeatures, dict]:
        """Returns the features of images in [-1, 1], and the statistics after them.

        Args:
          fixed: "backbone", its variables where it is frozen; "beside", what lies
            before it and is not trained.
          noise: standard normal, of `backbone.noise_shape`.
          train: normalise by the batch.
        """
        found, of_backbone = self._map(params, statistics, fixed, images, noise, train)
        after = {} if self.frozen else {"backbone": of_backbone}
        modules = (
            {"projection": LinearProjection(self.projection)} if self.projection else {}
        )
        for name, module in (modules | {"head": self.head}).items():
            variables = {"params": params[name], "batch_stats": statistics[name]}
            if train:
                found, changed = module.apply(
                    variables, found, train=True, mutable=["batch_stats"]
                )
                after[name] = changed["batch_stats"]
            else:
                found = module.apply(variables, found, train=False)
                after[name] = statistics[name]
        return found, after

    def _map(self, params, statistics, fixed, images, noise, train):
        if self.frozen:
            variables, train = fixed["backbone"], False
        else:
            variables = {
                "params": params["backbone"],
                "batch_stats": statistics.get("backbone", {}),
            }
        beside = fixed.get("beside")
        return self.backbone.map(variables, beside, images, noise, train)

    def noise(
        self, key: PRNGKeyArray, positions: Array, image_shape: tuple[int, ...]
    ) -> Images | None:
        """Noise of each image by its position, where the backbone takes any."""
        shape = self.backbone.noise_shape(image_shape)
        return None if shape is None else example_noise(key, positions, tuple(shape))

    def test_features(
        self,
        params: dict,
        statistics: dict,
        fixed: dict,
        images: Array,
        indices: Array,
        key: PRNGKeyArray,
    ) -> AlignedFeatures:
        """Features of uint8 images as they are; image i sees the noise of (key, i)."""
        x0 = to_float(images)
        noise = self.noise(key, indices, images.shape[1:])
        return self(params, statistics, fixed, x0, noise, train=False)[0]
