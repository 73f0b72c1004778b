"""The identity of a data set."""

import numpy as np

from ddae_jax.data.masks import MaskedImages
from ddae_jax.data.source import Source
from ddae_jax.runtime import identity


def of_source(source: Source) -> str:
    """Returns a hash of a source: split, labels and images.

    Not of its name, which is that of a folder that can be moved.

    All images count where they are in memory; where they stream, `identity.SAMPLED` of
    them, evenly spread.
    """
    images = source.images
    if images is None:
        images = source.read_rows(identity.spread(len(source), identity.SAMPLED))
    return identity.of(
        split=source.split,
        image_shape=source.image_shape,
        labels=source.labels,
        images=images,
        **source.form.facts,
    )


def of_masked(masked: MaskedImages) -> str:
    """Returns a hash of a segmentation set: its images as in `of_source`, and masks."""
    count = len(masked)
    chosen = np.arange(count)
    if masked.images.images is None:
        chosen = identity.spread(count, identity.SAMPLED)
    return identity.of(images=of_source(masked.images), masks=masked.read_masks(chosen))
