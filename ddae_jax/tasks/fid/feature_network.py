"""Feature networks of the Frechet distance: Inception's, or one that a user brings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float, UInt8

from ddae_jax.errors import UserError
from ddae_jax.models import inception
from ddae_jax.models.inception_input import MODES, inception_outputs
from ddae_jax.models.layer_chain import LayerChain
from ddae_jax.weights.inception_file import FILE_NAME, InceptionFile
from ddae_jax.weights.layer_chain import ChainFile


class NetworkOutputs(NamedTuple):
    """Attributes:
    features: that the distance is taken on.
    score_logits: for the Inception score; None of other networks.
    """

    features: Float[Array, "batch width"]
    score_logits: Float[Array, "batch classes"] | None


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network from uint8 images to features, and what must be said of it.

    Attributes:
      name: said beside every number.
      width: number of features.
      params: float32 arrays, of any tree.
      apply: (params, images) -> NetworkOutputs; hashable, and equal where it does the
        same: then networks share one compiled program.
      facts: settings and hashes: the same facts, the same features.
      image_shape: (height, width, channels) that it takes; None: any size, grey or RGB.
      classes: of the score's logits; 0: it has none.
    """

    name: str
    width: int
    params: Any
    apply: Callable[[Any, UInt8[Array, "batch height width channels"]], NetworkOutputs]
    facts: Mapping[str, str]
    image_shape: tuple[int, int, int] | None = None
    classes: int = 0

    def check_images(self, where: str, shape: tuple[int, int, int]) -> None:
        """Raises a UserError where it cannot take images of `shape`."""
        if self.image_shape is None:
            if shape[-1] not in (1, 3):
                raise UserError(
                    f"{where}: images have {shape[-1]} channels, {self.name} takes 1 "
                    "or 3"
                )
        elif tuple(shape) != self.image_shape:
            raise UserError(
                f"{where}: images are {tuple(shape)}, {self.name} takes "
                f"{self.image_shape}"
            )


@dataclasses.dataclass(frozen=True)
class _Inception:
    resize: str
    images_at_once: int | None

    def __call__(self, params, images) -> NetworkOutputs:
        outputs = inception_outputs(params, images, self.resize, self.images_at_once)
        return NetworkOutputs(outputs.features, outputs.score_logits)


@dataclasses.dataclass(frozen=True)
class _Chain:
    chain: LayerChain

    def __call__(self, params, images) -> NetworkOutputs:
        return NetworkOutputs(self.chain(params, images), None)


def inception_network(
    file: InceptionFile, resize: str, images_at_once: int | None
) -> FeatureNetwork:
    """Inception-v3 of the FID graph.

    Args:
      file: its weights.
      resize: one of models.inception_input.MODES.
      images_at_once: see `inception_outputs`.

    Raises:
      UserError: there is no such way of resizing.
    """
    if resize not in MODES:
        raise UserError(f"resize mode {resize!r} is unknown; known: {', '.join(MODES)}")

    weights = FILE_NAME if file.published else "not the published ones"
    return FeatureNetwork(
        f"Inception-v3, {resize} resize"
        + ("" if file.published else ", weights of another file"),
        inception.FEATURES,
        file.params,
        _Inception(resize, images_at_once),
        {
            "network": "Inception-v3 of the FID graph, pool_3",
            "resize": resize,
            "weights": weights,
            "weights_sha256": file.sha256,
        },
        classes=inception.CLASSES,
    )


def chain_network(file: ChainFile) -> FeatureNetwork:
    """A network of docs/feature_networks.md."""
    return FeatureNetwork(
        file.name,
        file.width,
        file.tensors,
        _Chain(file.chain),
        {"network": file.name, "weights_sha256": file.sha256},
        file.chain.image_shape,
    )
