"""The noise-conditional WideResNet (Song et al. 2021, arXiv 2011.13456, appendix I.1).

Zagoruyko and Komodakis' network (arXiv 1605.07146) with group normalisation and a
Gaussian Fourier embedding of the noise, as DDAE's classifier from scratch has it.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.errors import UserError
from ddae_jax.models.base import Trainable
from ddae_jax.models.layers import GroupNorm, torch_bias_init
from ddae_jax.models.songunet_layers import FourierEmbedding

FOURIER_FEATURES = 256
EMBEDDING_FEATURES = 512

# He et al. 2015, equation 10; not truncated, as in PyTorch.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def standardise(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Gives each image mean 0 and standard deviation 1 over all its values.

    The standard deviation is the unbiased one, and counts as 1/sqrt(values) at least,
    so that an image of one colour becomes 0.
    """
    values = math.prod(images.shape[1:])
    axes = (1, 2, 3)
    centred = images - images.mean(axes, keepdims=True)
    variance = (centred**2).sum(axes, keepdims=True) / max(values - 1, 1)
    # The limit is inside the root: the slope of a root is infinite at 0.
    return centred / jnp.sqrt(jnp.maximum(variance, 1 / values))


def _norm(channels: int, name: str) -> GroupNorm:
    """At most 32 groups, of at least 4 channels each."""
    most = min(32, max(channels // 4, 1))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return GroupNorm(groups=groups, name=name)


def _conv(channels: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        channels,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        name=name,
    )


def _linear(in_features: int, features: int, dtype: Any, name: str) -> nn.Dense:
    return nn.Dense(
        features,
        kernel_init=_he_normal,
        bias_init=torch_bias_init(in_features),
        dtype=dtype,
        name=name,
    )


class Block(nn.Module):
    """Two 3x3 convolutions after normalisations; the embedding is added between.

    The shortcut has no parameters: means of 2x2 pixels, zeros for new channels.

    Attributes:
      channels: of the output.
      stride: of the first convolution.
      activate_shortcut: the shortcut, too, starts after the first normalisation.
      dtype: of the computation.
    """

    channels: int
    stride: int
    activate_shortcut: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, embedding):
        in_channels = x.shape[-1]
        hidden = nn.relu(_norm(in_channels, "norm1")(x))
        shortcut = hidden if self.activate_shortcut else x
        hidden = _conv(self.channels, self.stride, self.dtype, "conv1")(hidden)
        hidden += _linear(
            embedding.shape[-1], self.channels, self.dtype, name="embedding"
        )(nn.silu(embedding))[:, None, None, :]
        hidden = nn.relu(_norm(self.channels, "norm2")(hidden))
        hidden = _conv(self.channels, 1, self.dtype, "conv2")(hidden)
        if self.stride > 1:
            window = (self.stride, self.stride)
            # Of an odd size, the last window is smaller.
            shortcut = nn.avg_pool(
                shortcut, window, window, padding="SAME", count_include_pad=False
            )
        new = self.channels - in_channels
        return hidden + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, new)))


class WideResNet(Trainable):
    """WRN-`depth`-`widen` that knows the noise of its images.

    WRN-28-10 for 10 classes has 38.913 M parameters: 36.2 M without the embedding (the
    original has 36.5 M, because its shortcuts change width by a convolution).

    Attributes:
      num_classes: of the logits.
      depth: 6 n + 4, for n blocks in each of three groups; at least 10.
      widen: the groups have 16, 32 and 64 times as many channels.
      dtype: of the computation; parameters and logits are float32.
    """

    num_classes: int
    depth: int = 28
    widen: int = 10
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UserError(
                f"depth {self.depth} is not 6 n + 4, such as 10, 16, 22 or 28"
            )
        if self.widen < 1:
            raise UserError(f"widen {self.widen} is not positive")
        super().__post_init__()

    @property
    def title(self) -> str:
        """What papers call it."""
        return f"WRN-{self.depth}-{self.widen}"

    @property
    def fixed_parameters(self) -> tuple[str, ...]:
        """The random frequencies of the noise's embedding."""
        return ("fourier/frequencies",)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        condition: Float[Array, "batch"],
    ) -> Float[Array, "batch classes"]:
        """Returns logits.

        Args:
          images: noisy; of any scale, for each is standardised.
          condition: tells the noise: t/T, or ln(sigma).
        """
        waves = FourierEmbedding(FOURIER_FEATURES, name="fourier")(condition)
        embedding = _linear(
            FOURIER_FEATURES, EMBEDDING_FEATURES, self.dtype, "linear1"
        )(waves)
        embedding = _linear(
            EMBEDDING_FEATURES, EMBEDDING_FEATURES, self.dtype, "linear2"
        )(nn.silu(embedding))
        x = standardise(images.astype(jnp.float32)).astype(self.dtype)
        x = _conv(16, 1, self.dtype, "image")(x)
        for group in range(3):
            for i in range((self.depth - 4) // 6):
                x = Block(
                    16 * 2**group * self.widen,
                    stride=2 if group > 0 and i == 0 else 1,
                    activate_shortcut=group == i == 0,
                    dtype=self.dtype,
                    name=f"group{group + 1}_{i}",
                )(x, embedding)
        x = nn.relu(_norm(x.shape[-1], "norm")(x))
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        return _linear(x.shape[-1], self.num_classes, jnp.float32, "classes")(x)
