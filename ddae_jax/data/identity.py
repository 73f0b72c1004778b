"""The identity of a data set."""

from ddae_jax.data.source import Source
from ddae_jax.runtime import identity


def of_source(source: Source) -> str:
    """Returns a hash of a source: name, split, labels and images.

    All images count where they are in memory; where they stream, `identity.SAMPLED` of
    them, evenly spread.
    """
    images = source.images
    if images is None:
        images = source.read(identity.spread(len(source), identity.SAMPLED))
    return identity.of(
        name=source.name,
        split=source.split,
        image_shape=source.image_shape,
        labels=source.labels,
        images=images,
    )
