"""Doubling and halving images with a separable filter."""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

# Of the axes that are resampled: neighbours apart, and phases side by side.
_PAIRS = {
    1: "b (pairs two) w c -> two b pairs w c",
    2: "b h (pairs two) c -> two b h pairs c",
}
_PHASES = {1: "b h phase w c -> b (h phase) w c", 2: "b h w phase c -> b h (w phase) c"}


def _weights(taps: Sequence[float]) -> list[float]:
    if len(taps) % 2 or not taps:
        raise ValueError(
            f"the resampling filter {tuple(taps)} has no even number of taps"
        )
    return [tap / sum(taps) for tap in taps]


def _padded(x: Array, axis: int, amount: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (amount, amount)
    return jnp.pad(x, widths)


def _part(x: Array, axis: int, start: int, length: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, start + length),)]


def _halve(x: Array, axis: int, weights: list[float], padding: int) -> Array:
    half = len(weights) // 2
    x = _padded(x, axis, padding)
    # Pairs of neighbours: a strided slice would be slow in the backward pass.
    even, odd = rearrange(x, _PAIRS[axis], two=2)
    length = even.shape[axis] - half + 1
    return sum(
        weights[2 * i] * _part(even, axis, i, length)
        + weights[2 * i + 1] * _part(odd, axis, i, length)
        for i in range(half)
    )


def _double(x: Array, axis: int, weights: list[float]) -> Array:
    half = len(weights) // 2
    length = x.shape[axis]
    padded = _padded(x, axis, half)
    phases = []
    for phase in (0, 1):
        # Output 2m + phase takes input m - shift, by tap phase + half - 1 + 2 shift.
        total = 0
        for tap in range((phase + half - 1) % 2, 2 * half, 2):
            shift = (tap - phase - half + 1) // 2
            total += 2 * weights[tap] * _part(padded, axis, half - shift, length)
        phases.append(total)
    return rearrange(jnp.stack(phases, axis=axis + 1), _PHASES[axis])


def downsample(
    x: Float[Array, "batch height width channels"],
    taps: Sequence[float],
    *,
    border_included: bool = False,
) -> Float[Array, "batch height/2 width/2 channels"]:
    """Filters with the outer product of `taps` (scaled to sum 1), keeps every second.

    (1, 1) is the mean of 2 x 2 pixels.

    Args:
      x: images of even height and width.
      taps: the filter along one axis.
      border_included: False takes pixels outside the image as zero; True says that `x`
        has the len(taps) / 2 - 1 pixels outside each edge, so the result has as many
        pixels less.

    Raises:
      ValueError: the number of taps is odd.
    """
    weights = _weights(taps)
    padding = 0 if border_included else len(weights) // 2 - 1
    return _halve(_halve(x, 1, weights, padding), 2, weights, padding)


def upsample(
    x: Float[Array, "batch height width channels"], taps: Sequence[float]
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Puts zeros between the pixels and filters with `taps` (of sum 2 per axis).

    Pixels outside the image are zero. (1, 1) repeats pixels.

    Raises:
      ValueError: the number of taps is odd.
    """
    weights = _weights(taps)
    return _double(_double(x, 1, weights), 2, weights)
