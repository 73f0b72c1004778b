"""The augmentation of Karras et al. 2022 (arXiv 2206.00364), appendix F.2.

The constants are the documented defaults of the published pipeline (NVlabs/edm), its
"probability of doing anisotropic scaling with respect to a rotated coordinate frame"
of 0.5 among them.

Six random transformations of an image, and nine labels that tell the network what
was done, so that it learns the augmented distribution without leaking it into its
samples (nine zeros mean "not augmented").

The flips move pixels. The other four are one affine map each; their product is
applied in one warp: reflect padding, twofold upsampling with the low-pass filter of
the sym6 wavelet, bilinear sampling at the mapped positions, twofold downsampling
with the same filter. The wavelet is orthonormal, so the identity map gives back the
image. Padding and upsampling are one small matrix per axis, and so is downsampling:
every shape is static.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

SCALE_STD = 0.2  # standard deviation of log2 of a scaling
TRANSLATE_STD = 0.125  # standard deviation of a shift, in image widths
FRAME_PROBABILITY = 0.5  # share of the stretches whose axis is turned
LABELS = 9

# Low-pass decomposition filter of the symlet with six vanishing moments ("sym6" of the
# wavelet literature, sum sqrt 2); scaled to sum 1 below.
_SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
_FILTER = _SYM6 / _SYM6.sum()
_BORDER = len(_FILTER) // 4  # output pixels that the downsampling filter reaches over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AugmentParameters:
    """What is done to each image of a batch; zero everywhere is the identity.

    flip_x, flip_y: 0 or 1. scale: log2 of the zoom, in units of 0.2. rotation: radians.
    stretch: log2 of the stretch along an axis (and of the squeeze across it), in units
    of 0.2; stretch_angle: that axis, radians. shift_x, shift_y: in units of 0.125 of
    the width and the height.
    """

    flip_x: Float[Array, "batch"]
    flip_y: Float[Array, "batch"]
    scale: Float[Array, "batch"]
    rotation: Float[Array, "batch"]
    stretch: Float[Array, "batch"]
    stretch_angle: Float[Array, "batch"]
    shift_x: Float[Array, "batch"]
    shift_y: Float[Array, "batch"]


def parameters(
    key: PRNGKeyArray, count: int, probability: float | Float[Array, ""]
) -> AugmentParameters:
    """Draws the transformations of `count` images.

    Horizontal flips are always a fair coin; each of the other transformations is drawn
    with `probability` (0.12 for CIFAR-10) and left out otherwise.
    """
    keys = iter(jax.random.split(key, 14))

    def uniform(low: float = 0.0, high: float = 1.0) -> Float[Array, "batch"]:
        return jax.random.uniform(next(keys), (count,), minval=low, maxval=high)

    def normal() -> Float[Array, "batch"]:
        return jax.random.normal(next(keys), (count,))

    def coin() -> Float[Array, "batch"]:
        return jax.random.bernoulli(next(keys), 0.5, (count,)).astype(jnp.float32)

    def gate(chance: float | Float[Array, ""]) -> Float[Array, "batch"]:
        return (uniform() < chance).astype(jnp.float32)

    shifted = gate(probability)
    return AugmentParameters(
        flip_x=coin(),
        flip_y=coin() * gate(probability),
        scale=normal() * gate(probability),
        rotation=uniform(-math.pi, math.pi) * gate(probability),
        stretch=normal() * gate(probability),
        stretch_angle=uniform(-math.pi, math.pi) * gate(FRAME_PROBABILITY),
        shift_x=normal() * shifted,
        shift_y=normal() * shifted,
    )


def labels(parameters: AugmentParameters) -> Float[Array, "batch 9"]:
    """Returns the nine numbers that tell the network what was done."""
    p = parameters
    columns = (
        p.flip_x,
        p.flip_y,
        p.scale,
        jnp.cos(p.rotation) - 1,
        jnp.sin(p.rotation),
        p.stretch * jnp.cos(p.stretch_angle),
        p.stretch * jnp.sin(p.stretch_angle),
        p.shift_x,
        p.shift_y,
    )
    return jnp.stack(columns, axis=-1)


def apply(
    images: Float[Array, "batch height width channels"], parameters: AugmentParameters
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch 9"]]:
    """Transforms images of any range; returns them and their labels."""

    def flip(images, chosen, axis):
        return jnp.where(
            chosen[:, None, None, None] == 1, jnp.flip(images, axis), images
        )

    flipped = flip(flip(images, parameters.flip_x, 2), parameters.flip_y, 1)
    return _warp(flipped, parameters), labels(parameters)


def augment(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width channels"],
    probability: float | Float[Array, ""] = 0.12,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch 9"]]:
    """Draws transformations, applies them; returns the images and their labels."""
    return apply(images, parameters(key, images.shape[0], probability))


def _warp(
    images: Float[Array, "batch height width channels"], parameters: AugmentParameters
) -> Float[Array, "batch height width channels"]:
    height, width = images.shape[1:3]
    einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    fine = einsum("uh,bhwc->buwc", _upsample(height), images)
    fine = einsum("vw,buwc->buvc", _upsample(width), fine)
    rows, columns = _positions(parameters, height, width)
    warped = _sample_bilinear(fine, rows, columns)
    coarse = einsum("hu,buvc->bhvc", _downsample(height), warped)
    return einsum("wv,bhvc->bhwc", _downsample(width), coarse)


def _upsample(size: int) -> np.ndarray:
    """Reflect padding by size - 1 on both sides, then twofold upsampling.

    Sample u of the result stands for pixel u / 2 - (size - 1). The published pipeline
    pads by what the batch's transformations need, at most size - 1, beyond which there
    are zeros. The largest padding reproduces its golden values, needs no shape that
    depends on the data, and keeps the images of a batch independent.
    """
    padded = 3 * size - 2
    matrix = np.zeros((2 * padded, size), np.float32)
    i = np.arange(padded)
    pixels = np.abs(i - (size - 1))
    pixels = np.minimum(pixels, 2 * (size - 1) - pixels)
    for tap, weight in enumerate(_FILTER):
        u = tap - 5 + 2 * i
        inside = (u >= 0) & (u < 2 * padded)
        matrix[u[inside], pixels[inside]] += 2 * weight  # no u comes twice
    return matrix


def _downsample(size: int) -> np.ndarray:
    """Twofold downsampling of an image with `_BORDER` pixels more on both sides."""
    matrix = np.zeros((size, 2 * (size + 2 * _BORDER)), np.float32)
    for i in range(size):
        matrix[i, 2 * i + 1 : 2 * i + 1 + len(_FILTER)] = _FILTER
    return matrix


def _positions(
    parameters: AugmentParameters, height: int, width: int
) -> tuple[Float[Array, "batch rows columns"], Float[Array, "batch rows columns"]]:
    """Where each output sample comes from: row and column in the upsampled image."""

    def grid(size: int) -> np.ndarray:
        """Offsets of the output samples from the image's centre, in pixels."""
        count = 2 * (size + 2 * _BORDER)
        return ((np.arange(count) + 1) / 2 - _BORDER - size / 2).astype(np.float32)

    def column(values: Float[Array, "batch"]) -> Float[Array, "batch 1 1"]:
        return values[:, None, None]

    p = parameters
    x = grid(width)[None, None, :] - column(p.shift_x) * (TRANSLATE_STD * width)
    y = grid(height)[None, :, None] - column(p.shift_y) * (TRANSLATE_STD * height)
    stretch = column(jnp.exp2(SCALE_STD * p.stretch))
    x, y = _rotate(x, y, column(p.stretch_angle))
    x, y = _rotate(x / stretch, y * stretch, -column(p.stretch_angle))
    x, y = _rotate(x, y, column(p.rotation))
    zoom = column(jnp.exp2(-SCALE_STD * p.scale))
    rows = 2 * (y * zoom + height / 2 + height - 1) - 1
    columns = 2 * (x * zoom + width / 2 + width - 1) - 1
    return rows, columns


def _rotate(x, y, angle):
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _sample_bilinear(
    images: Float[Array, "batch height width channels"],
    rows: Float[Array, "batch rows columns"],
    columns: Float[Array, "batch rows columns"],
) -> Float[Array, "batch rows columns channels"]:
    """Bilinear interpolation at fractional positions; zeros outside the image."""
    height, width = images.shape[1:3]
    flat = rearrange(images, "b h w c -> b (h w) c")
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - top, columns - left

    def corner(row, column, weight):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
        column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
        values = _gather(flat, row * width + column)
        return values * (weight * inside)[..., None]

    return (
        corner(top, left, (1 - down) * (1 - right))
        + corner(top, left + 1, (1 - down) * right)
        + corner(top + 1, left, down * (1 - right))
        + corner(top + 1, left + 1, down * right)
    )


def _gather(
    flat: Float[Array, "batch pixels channels"],
    indices: Int[Array, "batch rows columns"],
) -> Float[Array, "batch rows columns channels"]:
    return jax.vmap(lambda image, index: image[index])(flat, indices)
