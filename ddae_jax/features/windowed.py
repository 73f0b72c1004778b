"""Maps of whole photos by an encoder of one input size: windows, a batch at a time."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray, UInt8

from ddae_jax.data.source import Source
from ddae_jax.features.encode import Encode, encode_batches
from ddae_jax.features.windows import Windows
from ddae_jax.runtime import log, parallel

Photos = Sequence[UInt8[np.ndarray, "height width channels"]]


def encode_photos(
    encode: Encode,
    params: dict,
    mesh: Mesh,
    photos: Photos,
    window: tuple[int, int],
    time: float,
    key: PRNGKeyArray,
    batch_size: int,
) -> dict[str, list[Float[np.ndarray, "rows columns features"]]]:
    """Maps of photos, of which none is smaller than the encoder's input.

    Args:
      encode: gives (batch, rows, columns, features) of windows.
      params: on the mesh, sharded as they are.
      photos: of one number of channels.
      window: (height, width) of the encoder's input.
      time: the process's own.
      key: window i, counted over all photos, gets the noise of (key, i).
      batch_size: windows at once over all devices, a multiple of their number.

    Returns:
      name -> a float32 map for each photo.

    Raises:
      UserError: a photo is smaller than the window.
    """
    layouts = [Windows(photo.shape[:2], window) for photo in photos]
    source = _windows(photos, layouts)
    parts = parallel.batch_parts(mesh)
    batch_size = min(batch_size, -(-len(source) // parts) * parts)
    encoders = [(encode, time)]
    batches = encode_batches(encoders, params, mesh, source, key, batch_size)
    windows = (
        {name: features[number] for name, features in outputs.items()}
        for _, (outputs,) in log.told("features", len(source), batches)
        for number in range(len(outputs[encode.names[0]]))
    )
    maps = {name: [] for name in encode.names}
    for layout in layouts:
        of_photo = itertools.islice(windows, len(layout.corners()))
        for name, found in layout.stitch(of_photo).items():
            maps[name].append(found)
    next(windows, None)  # the end, which is told
    return maps


def needed_bytes(
    encode: Encode,
    params: dict,
    layouts: Sequence[Windows],
    image_shape: tuple[int, int, int],
) -> int:
    """Bytes on the host that photos and their maps take, batches of windows apart.

    Args:
      layouts: of the photos.
      image_shape: (height, width, channels) of the encoder's input.
    """
    inputs = [
        jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        for shape in (image_shape, encode.noise_shape(image_shape))
    ]
    time = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = [
        leaf.shape[1:]
        for leaf in jax.eval_shape(encode, params, *inputs, time).values()
    ]
    kept, most = 0, 0
    for layout in layouts:
        maps = [np.prod((*layout.grid(shape[:2]), shape[2])) for shape in shapes]
        kept += np.prod(layout.photo) * image_shape[-1] + 4 * sum(maps)
        # While those of a photo are made, sums and one quotient are float64.
        most = max(most, 8 * sum(maps) + 8 * max(maps))
    return int(kept + most)


def _windows(photos: Photos, layouts: Sequence[Windows]) -> Source:
    """All windows of all photos, cut when they are read."""
    places = [
        (photo, top, left)
        for photo, layout in zip(photos, layouts, strict=True)
        for top, left in layout.corners()
    ]
    height, width = layouts[0].window

    def reader(indices):
        chosen = (places[index] for index in indices)
        return np.stack([p[top:, left:][:height, :width] for p, top, left in chosen])

    labels = np.zeros(len(places), np.int32)
    shape = (height, width, photos[0].shape[-1])
    return Source("windows", "test", labels, ("",), shape, reader)
