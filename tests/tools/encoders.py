"""Encoders without a network."""

import dataclasses
from collections.abc import Callable

from jax import Array


@dataclasses.dataclass(frozen=True)
class OneFeature:
    """The result of `function`(x0, noise, time) as the only feature."""

    name: str
    function: Callable[[Array, Array, Array], Array]

    @property
    def names(self) -> tuple[str, ...]:
        """One."""
        return (self.name,)

    def select(self, names: tuple[str, ...]) -> "OneFeature":
        """It has no others."""
        return self

    def noise_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The image's own."""
        return tuple(image_shape)

    def __call__(
        self, params: dict, x0: Array, noise: Array, time: Array
    ) -> dict[str, Array]:
        """Returns name -> feature."""
        return {self.name: self.function(x0, noise, time)}
