"""Many images in batches of one size, for all devices."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from ddae_jax.interface.checked import Images
from ddae_jax.runtime import parallel


def pieces(mesh: Mesh, count: int, size: int) -> Iterator[np.ndarray]:
    """Indices from 0 in pieces of `size`, or a little more, for all devices.

    They go beyond `count` where the last piece would not be full.
    """
    parts = parallel.batch_parts(mesh)
    size = -(-size // parts) * parts
    for start in range(0, count, size):
        yield np.arange(start, start + size, dtype=np.int32)


def placed(
    mesh: Mesh, images: Images, size: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """(images, indices) on the mesh; the last batch repeats its last image."""
    split = parallel.batch_sharding(mesh)
    for indices in pieces(mesh, len(images), size):
        batch = images[np.minimum(indices, len(images) - 1)]
        yield parallel.place(batch, split), parallel.place(indices, split)
