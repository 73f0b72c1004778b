"""The contract of a diffusion process, and what is the same for all of them."""

import abc
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ddae_jax.settings import fields


def per_example(
    values: Shaped[Array, "batch"], like: Float[Array, "batch ..."]
) -> Shaped[Array, "batch ..."]:
    """Appends axes of size 1, so that one value per example broadcasts over `like`."""
    return jnp.expand_dims(values, range(1, like.ndim))


def mean_per_example(values: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """Averages over all axes but the first."""
    return jnp.mean(values, axis=range(1, values.ndim))


class Process(abc.ABC):
    """A Gaussian path x_t = alpha(t) x0 + sigma(t) noise, with x0 about in [-1, 1].

    A process is a frozen dataclass of this class whose fields are declared with
    `settings.fields.setting`. It states its schedule, its training times, what its
    network sees, predicts and is trained on; the rest is written here.

    `time` is the process's own time, float32, one value per example; it broadcasts
    over all other axes of the images. The noise level sigma/alpha is the axis that all
    processes share. `output` is the raw output of the network.

    Attributes:
      learned_variance: whether the network's output has twice the image's channels: the
        second half says where the variance of a sampling step lies.
    """

    learned_variance: ClassVar[bool] = False

    def __post_init__(self):
        fields.check_all(type(self).__name__, self)

    # The schedule.

    @abc.abstractmethod
    def alpha(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the factor of the clean image."""

    @abc.abstractmethod
    def sigma(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the standard deviation of the noise."""

    @abc.abstractmethod
    def time_at(self, noise_level: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns the time of a noise level: the inverse of `noise_level`."""

    def noise_level(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns sigma/alpha."""
        return self.sigma(time) / self.alpha(time)

    def add_noise(
        self,
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the noisy image x_t."""
        alpha, sigma = self.alpha(time), self.sigma(time)
        return per_example(alpha, x0) * x0 + per_example(sigma, x0) * noise

    # The network: what it sees, what it predicts, what it is trained on.

    @abc.abstractmethod
    def training_times(self, key: PRNGKeyArray, count: int) -> Float[Array, "count"]:
        """Draws `count` independent training times."""

    def network_inputs(
        self, x_t: Float[Array, "batch ..."], time: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch"]]:
        """Returns the images and the time as the network takes them."""
        return x_t, time

    @abc.abstractmethod
    def x0(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the estimate of the clean image, not clipped."""

    def noise_estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns the estimate of the noise, at times where there is some."""
        signal = per_example(self.alpha(time), x_t) * self.x0(output, x_t, time)
        return (x_t - signal) / per_example(self.sigma(time), x_t)

    def estimate(
        self,
        output: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch ..."]:
        """Returns what samplers take of an output.

        That is the x0 estimate; with a learned variance its output follows, on the
        channel axis.
        """
        return self.x0(output, x_t, time)

    @abc.abstractmethod
    def loss(
        self,
        output: Float[Array, "batch ..."],
        x0: Float[Array, "batch ..."],
        noise: Float[Array, "batch ..."],
        x_t: Float[Array, "batch ..."],
        time: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Returns the training loss per example, its weight included."""

    # The published conventions of evaluation.

    @abc.abstractmethod
    def official_time(self, index: int | float) -> float:
        """Returns the time that the published code calls `index`.

        Raises:
          UserError: there is no such time.
        """

    @property
    @abc.abstractmethod
    def probe_times(self) -> tuple[int | float, ...]:
        """Times of the published probe, as `official_time` takes them."""

    @property
    def contrastive_times(self) -> tuple[int | float, ...]:
        """Times of alignment and uniformity, likewise: the middle one of the probe."""
        times = self.probe_times
        return (times[len(times) // 2],)

    @property
    def test_times(self) -> tuple[int | float, ...]:
        """Times at which classifiers of noisy images are tested, likewise."""
        return self.probe_times

    def head_training_times(
        self, key: PRNGKeyArray, count: int
    ) -> Float[Array, "count"]:
        """Draws times to train a classifier head on noisy features at."""
        return self.training_times(key, count)

    def head_condition(self, time: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """Returns what such a head is told of `time`: the published index.

        Between two indices it is a real number.
        """
        return time

    def classifier_condition(
        self, time: Float[Array, "batch"]
    ) -> Float[Array, "batch"]:
        """Returns what a classifier of noisy images, trained from scratch, is told.

        As in Song et al. 2021 (arXiv 2011.13456). It is trained at `training_times`.
        """
        return time
