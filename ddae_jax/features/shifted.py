"""Features that depend less on where an image lies: means over shifts."""

import dataclasses
import itertools

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from jaxtyping import Array, Float

from ddae_jax.features.encode import Encode, Images, Times


@dataclasses.dataclass(frozen=True)
class Shifted:
    """An encoder's mean features over an image shifted down and right.

    A network that halves its images treats those at odd and even positions differently;
    two shifts each way serve all alignments with a stride of 2.

    Attributes:
      encode: gives the features of one position.
      shifts: 0, 1, ..., `shifts` - 1 pixels down and as many right, so shifts^2 forward
        passes an image, under one draw of noise. Black comes in.
    """

    encode: Encode
    shifts: int

    @property
    def names(self) -> tuple[str, ...]:
        """Those of `encode`."""
        return self.encode.names

    def select(self, names: tuple[str, ...]) -> "Shifted":
        """The same of other features."""
        return dataclasses.replace(self, encode=self.encode.select(names))

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """That of `encode`."""
        return self.encode.noise_shape(image_shape)

    def __call__(
        self, params: dict, x0: Images, noise: Images, time: Times
    ) -> dict[str, Float[Array, "batch ..."]]:
        """Returns name -> mean features."""
        views = shifted(x0, self.shifts)
        count = views.shape[1]
        time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (len(x0),))
        found = self.encode(
            params,
            rearrange(views, "b v h w c -> (b v) h w c"),
            repeat(noise, "b h w c -> (b v) h w c", v=count),
            repeat(time, "b -> (b v)", v=count),
        )
        return {
            name: reduce(features, "(b v) ... -> b ...", "mean", v=count)
            for name, features in found.items()
        }


def shifted(x0: Images, shifts: int) -> Float[Array, "batch views height width c"]:
    """Images in [-1, 1] moved down and right by 0 to `shifts` - 1 pixels each."""
    height, width = x0.shape[1:3]
    margin = shifts - 1
    padded = jnp.pad(
        x0, ((0, 0), (margin, 0), (margin, 0), (0, 0)), constant_values=-1.0
    )
    views = [
        padded[:, margin - down :, margin - right :][:, :height, :width]
        for down, right in itertools.product(range(shifts), repeat=2)
    ]
    return jnp.stack(views, axis=1)
