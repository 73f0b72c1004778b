"""The 8x8 handwritten digits that come with scikit-learn: nothing to download."""

import numpy as np

from ddae_jax.data import images as image_ops
from ddae_jax.data import source

TRAIN_COUNT = 1297
_SPLIT_SEED = 0


def load(
    split: str,
    *,
    folder: str | None,
    image_size: int | None,
    channels: int | None,
    resident_bytes: int,
    resize: str = image_ops.BICUBIC,
) -> source.Source:
    """Returns the digits (values 0..16 scaled to 0..255), grey, 8x8 or padded.

    The set has no official split: it is shuffled once and for all into 1,297 training
    and 500 test images. `folder` is not used.
    """
    import sklearn.datasets  # takes a second, which other data sets need not pay

    bunch = sklearn.datasets.load_digits()
    # RandomState, unlike Generator, promises the same stream in every numpy version.
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(bunch.target))
    chosen = order[:TRAIN_COUNT] if split == "train" else order[TRAIN_COUNT:]
    images = np.round(bunch.images[chosen, :, :, None] * (255 / 16)).astype(np.uint8)
    return source.from_arrays(
        "digits",
        split,
        images,
        bunch.target[chosen],
        [str(digit) for digit in range(10)],
        image_size,
        channels,
        resident_bytes,
        resize,
    )
