"""ResNet (He et al. 2016, arXiv 1512.03385) of bottleneck blocks, up to its last map.

As torchvision has it ("v1.5"): the 3x3 convolution of a block has its stride. There is
no pooling and no classifier: heads take the map.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddae_jax.errors import UserError
from ddae_jax.models.batch_norm import RunningBatchNorm

# A block's output has so many times the channels of its 3x3 convolution.
EXPANSION = 4

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(channels: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=_he_normal,
        dtype=dtype,
        name=name,
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to the input.

    Attributes:
      channels: of the 3x3 convolution.
      stride: of the 3x3 convolution, and of the shortcut.
      project: the shortcut is a 1x1 convolution, not the input itself.
      dtype: of the computation.
    """

    channels: int
    stride: int
    project: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        """Returns what the next block takes."""
        hidden = x
        outputs = EXPANSION * self.channels
        for number, (channels, size, stride) in enumerate(
            [(self.channels, 1, 1), (self.channels, 3, self.stride), (outputs, 1, 1)], 1
        ):
            if number > 1:
                hidden = nn.relu(hidden)
            conv = _conv(channels, size, stride, self.dtype, f"conv{number}")
            norm = RunningBatchNorm(name=f"norm{number}")
            hidden = norm(conv(hidden), train=train)
        if self.project:
            conv = _conv(outputs, 1, self.stride, self.dtype, "shortcut")
            x = RunningBatchNorm(name="shortcut_norm")(conv(x), train=train)
        return nn.relu(hidden + x)


class ResNet(nn.Module):
    """ResNet-50 by default: 23,508,032 parameters, 2048 features.

    In training, `apply` needs mutable=["batch_stats"]: see `RunningBatchNorm`.

    Attributes:
      blocks: of each stage; (3, 4, 23, 3) is ResNet-101.
      width: channels of the stem; the 3x3 convolutions of the stages have 1, 2, 4, ...
        times as many.
      last_stride: of the last stage, 1 or 2: the map's sides are 1/16 or 1/32 of the
        image's, for four stages.
      dtype: of the computation; parameters and statistics are float32.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    last_stride: int = 2
    dtype: Any = jnp.float32

    def __post_init__(self):
        if not self.blocks or min(self.blocks) < 1:
            raise UserError(
                f"blocks {tuple(self.blocks)} must be positive, one number a stage"
            )
        if self.width < 1:
            raise UserError(f"width {self.width} is not positive")
        if self.last_stride not in (1, 2):
            raise UserError(f"last_stride {self.last_stride} is not 1 or 2")
        super().__post_init__()

    @property
    def features(self) -> int:
        """Channels of the map."""
        return EXPANSION * self.width * 2 ** (len(self.blocks) - 1)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool
    ) -> Float[Array, "batch rows columns features"]:
        """Returns the last map, in `dtype`.

        Args:
          images: as `imagenet_input` makes them.
          train: normalise by the batch, and let the running statistics follow.
        """
        x = _conv(self.width, 7, 2, self.dtype, "stem")(images.astype(self.dtype))
        x = nn.relu(RunningBatchNorm(name="stem_norm")(x, train=train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        last = len(self.blocks) - 1
        for stage, count in enumerate(self.blocks):
            first_stride = self.last_stride if stage == last else 2
            for number in range(count):
                x = Bottleneck(
                    self.width * 2**stage,
                    stride=first_stride if stage > 0 and number == 0 else 1,
                    project=number == 0,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_{number}",
                )(x, train=train)
        return x
