"""What the vision transformers share: patches, positions, conditions, drop path."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from ddae_jax.errors import UserError
from ddae_jax.models.layers import sinusoidal_embedding

# Cosines and sines, each of shape (tokens, head_size).
Rotation = tuple[np.ndarray, np.ndarray]


def token_grid(image_shape: tuple[int, ...], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in images of shape (..., height, width, channels).

    Raises:
      UserError: the height or the width is not a multiple of the patch size.
    """
    height, width = image_shape[-3:-1]
    if height % patch_size or width % patch_size:
        raise UserError(
            f"images of {height} x {width} do not divide into patches of "
            f"{patch_size} x {patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(
    images: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch tokens patch"]:
    """Cuts images into patches, row by row; a patch is flattened channels last."""
    token_grid(images.shape, patch_size)
    return rearrange(
        images,
        "b (rows dy) (columns dx) c -> b (rows columns) (dy dx c)",
        dy=patch_size,
        dx=patch_size,
    )


def unpatchify(
    tokens: Float[Array, "batch tokens patch"], grid: tuple[int, int], patch_size: int
) -> Float[Array, "batch height width channels"]:
    """The inverse of `patchify` for a grid of (rows, columns) patches."""
    rows, columns = grid
    return rearrange(
        tokens,
        "b (rows columns) (dy dx c) -> b (rows dy) (columns dx) c",
        rows=rows,
        columns=columns,
        dy=patch_size,
        dx=patch_size,
    )


def _token_positions(grid: tuple[int, int]) -> np.ndarray:
    """Row and column of every token: (2, tokens, 1)."""
    return rearrange(np.indices(grid), "side rows columns -> side (rows columns) 1")


def sincos_positions(
    grid: tuple[int, int], features: int
) -> Float[np.ndarray, "tokens features"]:
    """Fixed positions of MAE and DiT: sinusoids of the column, then of the row.

    Each half holds its sines, then its cosines, of base 10000; computed in float64.
    """
    if features % 4:
        raise UserError(f"hidden_size {features} is not a multiple of 4")
    frequencies = 10_000.0 ** -(np.arange(features // 4) / (features // 4))
    rows, columns = _token_positions(grid)
    waves = [f(x * frequencies) for x in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


def sincos_init(grid: tuple[int, int]) -> Callable:
    """Initialises a (1, tokens, features) table with `sincos_positions`."""

    def init(key, shape, dtype=jnp.float32):
        del key
        return jnp.asarray(sincos_positions(grid, shape[-1])[None], dtype)

    return init


def rotary_angles(
    grid: tuple[int, int], head_size: int, extra_tokens: int = 0
) -> Rotation:
    """Cosines and sines of 2-D rotary positions (RoPE, Su et al. 2021; EVA-02's form).

    The first half of a head turns with the row, the second with the column; features
    2i and 2i + 1 are one plane, of frequency 10000^(-4i / head_size) in its half.
    `extra_tokens` come before those of the image, and do not turn.
    """
    if head_size % 4:
        raise UserError(f"heads of {head_size} features: RoPE needs a multiple of 4")
    frequencies = 10_000.0 ** -(np.arange(head_size // 4) / (head_size // 4))
    angles = np.concatenate(_token_positions(grid) * frequencies, axis=1)
    angles = np.pad(np.repeat(angles, 2, axis=1), ((extra_tokens, 0), (0, 0)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(
    x: Float[Array, "batch tokens heads head_size"], rotation: Rotation
) -> Float[Array, "batch tokens heads head_size"]:
    """Turns each plane of features (2i, 2i + 1) by its token's angle, in float32."""
    cosines, sines = (jnp.asarray(part)[:, None, :] for part in rotation)
    x32 = x.astype(jnp.float32)
    pairs = rearrange(x32, "b t h (planes two) -> b t h planes two", two=2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1)
    turned = rearrange(turned, "b t h planes two -> b t h (planes two)")
    return (x32 * cosines + turned * sines).astype(x.dtype)


def modulate(
    x: Float[Array, "batch tokens features"],
    shift: Float[Array, "batch features"],
    scale: Float[Array, "batch features"],
) -> Float[Array, "batch tokens features"]:
    """Shift and scale of adaptive layer normalisation (DiT, section 3.2)."""
    return x * (1 + scale[:, None, :]) + shift[:, None, :]


def patch_kernel_init(kernel_init: Callable) -> Callable:
    """Initialises a (height, width, in, out) kernel as the linear map of a patch."""

    def init(key, shape, dtype=jnp.float32):
        height, width, inputs, outputs = shape
        kernel = kernel_init(key, (height * width * inputs, outputs), dtype)
        return rearrange(kernel, "(h w i) o -> h w i o", h=height, w=width)

    return init


class PatchEmbedding(nn.Module):
    """A linear map of each patch: a strided convolution's weights, as one matmul."""

    patch_size: int
    features: int
    kernel_init: Callable
    bias_init: Callable
    dtype: Any

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens features"]:
        shape = (self.patch_size, self.patch_size, images.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        patches = patchify(images.astype(self.dtype), self.patch_size)
        kernel = rearrange(kernel.astype(self.dtype), "dy dx c o -> (dy dx c) o")
        return patches @ kernel + bias.astype(self.dtype)


class Positions(nn.Module):
    """Adds a position to every token; `fixed` ones get no gradient.

    Fixed positions are parameters too, so that a checkpoint keeps its own.
    """

    table_init: Callable
    fixed: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        shape = (1, *x.shape[1:])
        if self.has_variable("params", "table"):
            tokens = self.get_variable("params", "table").shape[1]
            if tokens != x.shape[1]:
                raise UserError(
                    f"the images make {x.shape[1]} tokens, but this network has "
                    f"positions for {tokens}: give it images of the trained size"
                )
        table = self.param("table", self.table_init, shape, jnp.float32)
        if self.fixed:
            table = jax.lax.stop_gradient(table)
        return x + table.astype(self.dtype)


class DropPath(nn.Module):
    """Drops a residual branch of whole examples (Huang et al. 2016, arXiv 1603.09382).

    A kept branch is scaled up, so that the mean stays; rate 0 does nothing.
    """

    rate: float

    @nn.compact
    def __call__(
        self, branch: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        if not self.rate:
            return branch
        shape = (len(branch), 1, 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, branch / (1 - self.rate), 0)


def drop_path_rate(rate: float, block: int, depth: int, train: bool) -> float:
    """Rate of block `block` of `depth`: from 0 at the first to `rate` at the last."""
    return rate * block / max(depth - 1, 1) if train else 0.0


class TimeMLP(nn.Module):
    """DiT's embedding of the time: 256 sinusoids, cosines first, then an MLP."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, time: Float[Array, "batch"]) -> Float[Array, "batch features"]:
        waves = sinusoidal_embedding(
            time, 256, last_frequency_included=False, cosine_first=True
        )
        init = nn.initializers.normal(0.02)
        hidden = nn.Dense(
            self.features, kernel_init=init, dtype=self.dtype, name="linear1"
        )(waves)
        return nn.Dense(
            self.features, kernel_init=init, dtype=self.dtype, name="linear2"
        )(nn.silu(hidden))


class ClassEmbedding(nn.Module):
    """A table of classes whose last row is the null class, taken without labels."""

    num_classes: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(
        self, labels: Int[Array, "batch"] | None, batch: int
    ) -> Float[Array, "batch features"]:
        if labels is None:
            labels = jnp.full(batch, self.num_classes)
        return nn.Embed(
            self.num_classes + 1,
            self.features,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="table",
        )(labels)


def check_heads(hidden_size: int, heads: int) -> None:
    """Raises a UserError unless tokens divide into heads."""
    if hidden_size % heads:
        raise UserError(f"heads: {heads} do not divide hidden_size {hidden_size}")
