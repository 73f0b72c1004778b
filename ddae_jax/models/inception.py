"""Inception-v3 of the FID graph (TensorFlow's inception-2015-12-05), for inference.

It differs from Szegedy et al. 2016 and torchvision in its pools: averages leave the
padding out, Mixed_7c takes a maximum. Batch normalisation is folded into the
convolutions (see weights/inception.py); the 1x1 convolutions that read the same input
are one matrix product.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

IMAGE_SIZE = 299
FEATURES = 2048
CLASSES = 1008

# Reduced precision (bfloat16, TF32) moves FID in the second decimal.
PRECISION = jax.lax.Precision.HIGHEST


class Conv(NamedTuple):
    """A convolution and its ReLU; stride 1 keeps the size unless it is `valid`."""

    name: str
    features: int
    height: int = 1
    width: int = 1
    stride: int = 1
    valid: bool = False

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.valid or self.stride > 1:
            return (0, 0), (0, 0)
        high, wide = self.height // 2, self.width // 2
        return (high, high), (wide, wide)


class Block(NamedTuple):
    """A mixed block: branches side by side, and a pool.

    Attributes:
      branches: each a tuple of steps, each step a tuple of parallel convolutions.
      pool: "average" or "max" before a 1x1 convolution, "subsample" for a maximum of
        stride 2 alone.
      pool_features: of that 1x1 convolution.
    """

    branches: tuple[tuple[tuple[Conv, ...], ...], ...]
    pool: str
    pool_features: int = 0

    @property
    def pointwise(self) -> tuple[Conv, ...]:
        """The 1x1 convolutions that read the block's input, in the order of use."""
        first = [steps[0][0] for steps in self.branches]
        found = [conv for conv in first if conv.height == conv.width == 1]
        if self.pool == "average":
            found.append(Conv("branch_pool", self.pool_features))
        return tuple(found)


def _chain(*convs: Conv) -> tuple[tuple[Conv, ...], ...]:
    return tuple((conv,) for conv in convs)


def _double_3x3(stride: int) -> tuple[tuple[Conv, ...], ...]:
    return _chain(
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, 3, 3),
        Conv("branch3x3dbl_3", 96, 3, 3, stride),
    )


def _block_35(pool_features: int) -> Block:
    return Block(
        (
            _chain(Conv("branch1x1", 64)),
            _chain(Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5, 5)),
            _double_3x3(1),
        ),
        "average",
        pool_features,
    )


def _block_17(width: int) -> Block:
    return Block(
        (
            _chain(Conv("branch1x1", 192)),
            _chain(
                Conv("branch7x7_1", width),
                Conv("branch7x7_2", width, 1, 7),
                Conv("branch7x7_3", 192, 7, 1),
            ),
            _chain(
                Conv("branch7x7dbl_1", width),
                Conv("branch7x7dbl_2", width, 7, 1),
                Conv("branch7x7dbl_3", width, 1, 7),
                Conv("branch7x7dbl_4", width, 7, 1),
                Conv("branch7x7dbl_5", 192, 1, 7),
            ),
        ),
        "average",
        192,
    )


def _block_8(pool: str) -> Block:
    return Block(
        (
            _chain(Conv("branch1x1", 320)),
            (
                (Conv("branch3x3_1", 384),),
                (Conv("branch3x3_2a", 384, 1, 3), Conv("branch3x3_2b", 384, 3, 1)),
            ),
            (
                (Conv("branch3x3dbl_1", 448),),
                (Conv("branch3x3dbl_2", 384, 3, 3),),
                (
                    Conv("branch3x3dbl_3a", 384, 1, 3),
                    Conv("branch3x3dbl_3b", 384, 3, 1),
                ),
            ),
        ),
        pool,
        192,
    )


STEM = (
    Conv("Conv2d_1a_3x3", 32, 3, 3, 2),
    Conv("Conv2d_2a_3x3", 32, 3, 3, valid=True),
    Conv("Conv2d_2b_3x3", 64, 3, 3),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, 3, 3, valid=True),
)
POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
BLOCKS = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": Block(
        (_chain(Conv("branch3x3", 384, 3, 3, 2)), _double_3x3(2)), "subsample"
    ),
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": Block(
        (
            _chain(Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 3, 2)),
            _chain(
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, 1, 7),
                Conv("branch7x7x3_3", 192, 7, 1),
                Conv("branch7x7x3_4", 192, 3, 3, 2),
            ),
        ),
        "subsample",
    ),
    "Mixed_7b": _block_8("average"),
    "Mixed_7c": _block_8("max"),
}


def average_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Means over 3 x 3 pixels, of those inside the image."""
    _, height, width, _ = x.shape
    for axis in (1, 2):
        zeros = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
        before = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
        after = jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        x = (
            x
            + jnp.concatenate([zeros, before], axis)
            + jnp.concatenate([after, zeros], axis)
        )
    counts = [
        np.convolve(np.ones(size), np.ones(3), "same") for size in (height, width)
    ]
    weights = 1 / np.multiply.outer(*counts)
    return x * weights[:, :, None].astype(np.float32)


def max_pool(
    x: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, "batch rows columns channels"]:
    """Maxima over 3 x 3 pixels; stride 2 without padding, stride 1 with."""
    padding = "VALID" if stride == 2 else "SAME"
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


def _apply(conv: Conv, x: Array) -> Array:
    layer = nn.Conv(
        conv.features,
        (conv.height, conv.width),
        conv.stride,
        padding=conv.padding,
        precision=PRECISION,
        name=conv.name,
    )
    return nn.relu(layer(x))


class Mixed(nn.Module):
    """One mixed block."""

    block: Block

    @nn.compact
    def __call__(self, x):
        widths = [conv.features for conv in self.block.pointwise]
        ready = {}
        if widths:
            merged = nn.Dense(sum(widths), precision=PRECISION, name="pointwise")(x)
            parts = jnp.split(merged, np.cumsum(widths)[:-1], axis=-1)
            names = [conv.name for conv in self.block.pointwise]
            ready = dict(zip(names, parts, strict=True))
        outputs = []
        for branch in self.block.branches:
            parts = [x]
            for step in branch:
                (source,) = parts
                parts = [
                    nn.relu(ready[conv.name])
                    if conv.name in ready
                    else _apply(conv, source)
                    for conv in step
                ]
            outputs += parts
        if self.block.pool == "average":
            # A mean over pixels and a 1x1 convolution commute: pool fewer channels.
            outputs.append(nn.relu(average_pool(ready["branch_pool"])))
        elif self.block.pool == "max":
            conv = Conv("branch_pool", self.block.pool_features)
            outputs.append(_apply(conv, max_pool(x, 1)))
        else:
            outputs.append(max_pool(x, 2))
        return jnp.concatenate(outputs, axis=-1)


class Outputs(NamedTuple):
    """What Inception gives for a batch.

    Attributes:
      features: pool_3, the features of FID.
      logits: of the 1008 classes of the graph.
      score_logits: logits without the bias: the published Inception scores (Salimans
        et al. 2016, ADM, EDM) leave it out.
    """

    features: Float[Array, "batch 2048"]
    logits: Float[Array, "batch 1008"]
    score_logits: Float[Array, "batch 1008"]


class InceptionV3(nn.Module):
    """The network of FID, the Inception score, precision and recall, and KID."""

    @nn.compact
    def __call__(self, images: Float[Array, "batch 299 299 3"]) -> Outputs:
        """Returns features and logits of `images` as `inception_input` makes them."""
        x = images
        for conv in STEM:
            x = _apply(conv, x)
            if conv.name in POOLED_AFTER:
                x = max_pool(x, 2)
        for name, block in BLOCKS.items():
            x = Mixed(block, name=name)(x)
        features = jnp.mean(x, axis=(1, 2))
        kernel = self.param("fc_kernel", nn.initializers.zeros, (FEATURES, CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros, (CLASSES,))
        score_logits = jnp.dot(features, kernel, precision=PRECISION)
        return Outputs(features, score_logits + bias, score_logits)
