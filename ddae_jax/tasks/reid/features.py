"""Features of query and gallery images, streamed to the host."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from ddae_jax.data.person_images import PersonImages
from ddae_jax.features.encode import evaluation_inputs
from ddae_jax.runtime import compiler, log, parallel
from ddae_jax.tasks.reid.model import Embedder


@dataclasses.dataclass(frozen=True)
class TrainedEmbedder:
    """A trained network.

    Attributes:
      embedder: the function.
      params, statistics, fixed: its arrays, on the mesh.
      mesh: of the devices.
    """

    embedder: Embedder
    params: dict
    statistics: dict
    fixed: dict
    mesh: Mesh


def embed(
    network: TrainedEmbedder,
    images: PersonImages,
    key: PRNGKeyArray,
    batch_size: int,
    normalise: bool,
) -> tuple[Float[np.ndarray, "count features"], Float[np.ndarray, "count rows local"]]:
    """Returns global and stripe features of all images, as they are.

    Args:
      key: image i gets the noise of (key, i), where the network takes any.
      batch_size: over all devices, a multiple of their number.
      normalise: global features to unit length.
    """
    whole, stripes = [], []
    batches = _batches(network, images, key, batch_size)
    source = images.source
    for _, found in log.told(f"{source.split} features", len(source), batches):
        whole.append(found[0])
        stripes.append(found[1])
    features = np.concatenate(whole)
    if normalise:
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.maximum(lengths, 1e-12)
    return features, np.concatenate(stripes)


def _batches(network, images, key, batch_size) -> Iterator[tuple[int, tuple]]:
    def on_host(first, found):
        valid = len(images) - first
        return first, tuple(array[:valid] for array in parallel.on_host(found))

    waiting = None
    inputs = evaluation_inputs(images.source, network.mesh, batch_size)
    for number, (pixels, _, indices, _) in enumerate(inputs):
        found = _run(
            network.embedder,
            network.params,
            network.statistics,
            network.fixed,
            pixels,
            indices,
            key,
        )
        # One batch late, so that the device works while the next one is read.
        if waiting is not None:
            yield on_host(*waiting)
        waiting = number * batch_size, found
    if waiting is not None:
        yield on_host(*waiting)


@compiler.jit(static_argnames=("embedder",))
def _run(embedder, params, statistics, fixed, images, indices, key):
    found = embedder.test_features(params, statistics, fixed, images, indices, key)
    return found.whole, found.stripes


def spread(images: PersonImages, count: int) -> PersonImages:
    """So many images, evenly spread over the set; 0: all."""
    if not count or count >= len(images):
        return images
    return images.subset(np.linspace(0, len(images) - 1, count).round().astype(int))
