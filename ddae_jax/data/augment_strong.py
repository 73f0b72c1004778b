"""The strong view of contrastive learning: crop, colours, grey, blur and flip.

The recipe is that of MoCo v3 (Chen et al. 2021, arXiv 2104.02057), which goes back to
SimCLR (Chen et al. 2020, arXiv 2002.05709). MoCo v3's two views differ: one is always
blurred, the other in a tenth of the cases and solarised in a fifth. Here both are
drawn alike: blurred in half of the cases, as in SimCLR and MoCo v2, never solarised.

Everything is a pure function of a batch and of one key per example
(`augment.example_keys`), with static shapes. Crop and blur are two small matrices per
image, one for its rows and one for its columns: products that compilers know how to
distribute, no gathers.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from ddae_jax.data import augment, augment_colour
from ddae_jax.errors import UserError

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class StrongAugment:
    """The strong view; `view(keys, images)`, static and hashable. Defaults: MoCo v3's.

    least_area: the smallest share of the image that a crop keeps; the largest is 1, and
    a least_area of 1 means no crop.
    aspect: a crop's width over its height lies in 1 / aspect .. aspect. brightness,
    contrast, saturation, hue: strengths as in `draw_jitter`. least_sigma, most_sigma:
    of the blur, in pixels. The probabilities are per image; flips are a fair coin.
    """

    least_area: float = 0.2
    aspect: float = 4 / 3
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    least_sigma: float = 0.1
    most_sigma: float = 2.0
    flip: bool = True

    def __post_init__(self):
        for name in ("jitter_probability", "grey_probability", "blur_probability"):
            _check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("brightness", "contrast", "saturation"):
            _check_range(name, getattr(self, name), 0.0, math.inf)
        _check_range("hue", self.hue, 0.0, 0.5)
        _check_range("aspect", self.aspect, 1.0, math.inf)
        if not 0 < self.least_area <= 1:
            raise UserError(f"least_area is {self.least_area}: it must be in (0, 1]")
        if not 0 < self.least_sigma <= self.most_sigma < math.inf:
            raise UserError(
                f"least_sigma is {self.least_sigma}, most_sigma {self.most_sigma}: "
                "they must be above 0 and in order"
            )

    def __call__(
        self,
        keys: Key[Array, "batch"],
        images: Float[Array, "batch height width channels"],
    ) -> Float[Array, "batch height width channels"]:
        """Returns the view of images in [-1, 1], in [-1, 1] and of the same type.

        Images of one channel have no saturation, hue or grey. With other numbers of
        channels (latents, of any range) only crop and flip make sense: set the three
        probabilities to 0.
        """
        self._check_channels(images.shape[-1])
        keys = jax.vmap(lambda key: jax.random.split(key, 7))(keys)
        cropped, jittered, factors, greyed, blurred, sigmas, flipped = keys.T
        dtype = images.dtype
        images = images.astype(jnp.float32)
        # A flip changes nothing in how the others are distributed. It comes first
        # because compilers would compute twice what is both mirrored and not.
        if self.flip:
            images = augment.random_flip(flipped, images)
        # What is switched off is left out of the program, and rounds nothing.
        if self.least_area < 1:
            size = images.shape[1:3]
            boxes = draw_boxes(cropped, size, self.least_area, self.aspect)
            images = crop(images, boxes)
        if self.jitter_probability > 0:
            strengths = (self.brightness, self.contrast, self.saturation, self.hue)
            factors = augment_colour.draw_jitter(factors, *strengths)
            changed = 2 * augment_colour.jitter((images + 1) / 2, factors) - 1
            images = _where(chance(jittered, self.jitter_probability), changed, images)
        if self.grey_probability > 0 and images.shape[-1] == 3:
            changed = 2 * augment_colour.grey((images + 1) / 2) - 1
            images = _where(chance(greyed, self.grey_probability), changed, images)
        if self.blur_probability > 0:
            changed = blur(
                images, draw_sigmas(sigmas, self.least_sigma, self.most_sigma)
            )
            images = _where(chance(blurred, self.blur_probability), changed, images)
        return images.astype(dtype)

    def _check_channels(self, channels: int) -> None:
        names = ("jitter_probability", "grey_probability", "blur_probability")
        wanted = [name for name in names if getattr(self, name) > 0]
        if channels not in (1, 3) and wanted:
            raise UserError(
                f"the strong view of images with {channels} channels has no colours: "
                f"set {', '.join(wanted)} to 0"
            )


def draw_boxes(
    keys: Key[Array, "batch"], size: tuple[int, int], least_area: float, aspect: float
) -> Int[Array, "batch 4"]:
    """Draws boxes inside an image of `size` (height, width), as RandomResizedCrop does.

    Returns top, left, height and width, in whole pixels. The area is uniform over
    least_area .. 1 of the image's, the width over the height log-uniform over
    1 / aspect .. aspect, the position uniform. Of ten tries the first that fits
    counts, as in torchvision, only that all ten are drawn; where none fits, the box is
    the largest in the image's centre with an allowed aspect.
    """
    height, width = size
    limit = math.log(aspect)

    def draw(key: Key[Array, ""]) -> Int[Array, "4"]:
        for_area, for_aspect, for_top, for_left = jax.random.split(key, 4)
        shape = (_TRIES,)
        area = jax.random.uniform(for_area, shape, minval=least_area) * (height * width)
        ratio = jax.random.uniform(for_aspect, shape, minval=-limit, maxval=limit)
        half = jnp.exp(ratio / 2)
        rows = jnp.round(jnp.sqrt(area) / half).astype(jnp.int32)
        columns = jnp.round(jnp.sqrt(area) * half).astype(jnp.int32)
        fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
        first = jnp.argmax(fits)
        rows, columns = rows[first], columns[first]
        top = jax.random.randint(for_top, (), 0, height - rows + 1)
        left = jax.random.randint(for_left, (), 0, width - columns + 1)
        box = jnp.stack([top, left, rows, columns])
        return jnp.where(fits.any(), box, jnp.array(_central_box(size, aspect)))

    return jax.vmap(draw)(keys)


def crop(
    images: Float[Array, "batch height width channels"], boxes: Int[Array, "batch 4"]
) -> Float[Array, "batch height width channels"]:
    """Enlarges a box (top, left, height, width) of each image to the image's size.

    Bilinear between the centres of pixels; beyond the outermost centres of the box its
    border pixels are repeated. That is what torchvision gives with antialiasing and
    without: a box inside the image is never made smaller, and only that needs it. Any
    range.
    """
    height, width = images.shape[1:3]
    rows = _enlarge(boxes[:, 0], boxes[:, 2], height)
    new = _resample(images, rows, _enlarge(boxes[:, 1], boxes[:, 3], width))
    # The weights sum to 1 but for rounding, which must not leave the image's range.
    least = images.min((1, 2, 3), keepdims=True)
    return jnp.clip(new, least, images.max((1, 2, 3), keepdims=True))


def draw_sigmas(
    keys: Key[Array, "batch"], least: float, most: float
) -> Float[Array, "batch"]:
    """Draws the standard deviations of `blur`, uniform, in pixels."""

    def draw(key: Key[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(key, minval=least, maxval=most)

    return jax.vmap(draw)(keys)


def blur(
    images: Float[Array, "batch height width channels"], sigmas: Float[Array, "batch"]
) -> Float[Array, "batch height width channels"]:
    """Blurs images in [-1, 1], each by a standard deviation of its own, in pixels.

    The Gaussian is cut off and scaled to sum 1, and the border reflected without its
    outermost pixel, as torchvision's GaussianBlur does; the kernel's width is
    `kernel_size` of the shorter side.
    """
    height, width = images.shape[1:3]
    size = kernel_size(min(height, width))
    offsets = np.arange(size) - size // 2
    kernels = jax.nn.softmax(-0.5 * (offsets / sigmas[:, None]) ** 2)
    rows, columns = (_smooth(kernels, side) for side in (height, width))
    return jnp.clip(_resample(images, rows, columns), -1, 1)  # rounding


def kernel_size(side: int) -> int:
    """The odd width of the blur's kernel: a tenth of the side, as in SimCLR.

    At least 3, so that small images are blurred at all (16 and 32 pixels: 3; 64: 7;
    224: 23); never more than can be reflected.
    """
    return 2 * min(max(side // 20, 1), side - 1) + 1


def chance(keys: Key[Array, "batch"], probability: float) -> Bool[Array, "batch"]:
    """Says of each example whether something of this probability happens to it."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def _central_box(size: tuple[int, int], aspect: float) -> tuple[int, int, int, int]:
    """The largest box in the centre whose aspect is allowed."""
    height, width = size
    rows = min(height, round(width * aspect))
    columns = min(width, round(height * aspect))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _enlarge(
    start: Int[Array, "batch"], length: Int[Array, "batch"], size: int
) -> Float[Array, "batch size size"]:
    """Bilinear weights of `size` pixels over start .. start + length of as many."""
    start, length = start[:, None], length[:, None]
    centres = (jnp.arange(size) + 0.5) * (length / size) - 0.5
    positions = start + jnp.clip(centres, 0, length - 1)
    distance = jnp.abs(positions[:, :, None] - jnp.arange(size))
    return jnp.maximum(1 - distance, 0)


def _smooth(
    kernels: Float[Array, "batch taps"], size: int
) -> Float[Array, "batch size size"]:
    """The matrices that convolve `size` pixels with the kernels, borders reflected."""
    taps = kernels.shape[1]
    pixels = np.abs(np.arange(size)[:, None] + np.arange(taps) - taps // 2)
    pixels = np.minimum(pixels, 2 * (size - 1) - pixels)
    where = (pixels[:, :, None] == np.arange(size)).astype(np.float32)
    return jnp.einsum("bt,itj->bij", kernels, where, precision=lax.Precision.HIGHEST)


def _resample(
    images: Float[Array, "batch height width channels"],
    rows: Float[Array, "batch height height"],
    columns: Float[Array, "batch width width"],
) -> Float[Array, "batch height width channels"]:
    """Applies a matrix to the rows and one to the columns of each image."""
    # Full precision: accelerators would round the pixels to bfloat16 or less otherwise.
    highest = lax.Precision.HIGHEST
    new = jnp.einsum("bij,bjwc->biwc", rows, images, precision=highest)
    return jnp.einsum("bkw,biwc->bikc", columns, new, precision=highest)


def _where(chosen, changed, images):
    return jnp.where(chosen[:, None, None, None], changed, images)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most or value == math.inf:
        raise UserError(f"{name} is {value}: it must be in {least} .. {most}")
