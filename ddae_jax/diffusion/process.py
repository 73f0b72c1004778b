"""What every diffusion process offers: the common interface, and broadcasting."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray, Shaped


def per_example(
    values: Shaped[Array, "batch"], like: Float[Array, "batch ..."]
) -> Shaped[Array, "batch ..."]:
    """Appends axes of size 1, so that one value an example broadcasts over `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


@runtime_checkable
class Process(Protocol):
    """A Gaussian path x_t = alpha(t) x0 + sigma(t) noise, with x0 about in [-1, 1].

    `time` is the process's own time, float32, one value an example; it broadcasts
    over all other axes of the images. The noise level sigma/alpha is the axis that
    all processes share. `output` is the raw output of the network.
    """

    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws `count` independent training times."""
        ...

    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the factor of the clean image."""
        ...

    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the standard deviation of the noise."""
        ...

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sigma/alpha."""
        ...

    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time of a noise level: the inverse of `noise_level`."""
        ...

    def official_time(self, index: int | float) -> float:
        """Returns the time that the published code calls probe time `index`."""
        ...

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the noisy image x_t."""
        ...

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns the images and the time as the network takes them."""
        ...

    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the estimate of the clean image, not clipped."""
        ...

    def noise_estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the estimate of the noise."""
        ...

    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the training loss of each example, its weight included."""
        ...
