"""The dispersive loss (Wang & He 2025, "Diffuse and Disperse", arXiv 2506.09027)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddae_jax.denoiser import Denoiser
from ddae_jax.metrics.contrastive import normalise
from ddae_jax.settings.fields import setting
from ddae_jax.train.objectives import base
from ddae_jax.train.objectives.base import Objective, Pass
from ddae_jax.train.window import Metrics, single


@dataclasses.dataclass(frozen=True)
class Dispersive(Objective):
    """Representations of a batch are to lie far from each other; there are no pairs."""

    on: bool = base.on_setting()
    weight: float = base.weight_setting(0.5)
    warmup: float = base.warmup_setting(0.0)
    tap: str = setting("", "which is spread; empty: a quarter of the way to the last")
    form: str = setting(
        "infonce_l2",
        "of the loss, as in the paper's table 1",
        choices=("infonce_l2", "infonce_cosine", "hinge", "covariance"),
    )
    temperature: float = setting(0.5, "tau of the InfoNCE forms", above=0, most=1e6)
    margin: float = setting(
        1.0,
        "squared distance per feature that is enough, of hinge",
        above=0,
        most=1e6,
    )

    compares_images: ClassVar[bool] = True

    def taps(self, denoiser: Denoiser) -> tuple[str, ...]:
        """The one that is spread."""
        return (self.tap or base.tap_at(denoiser, 0.25),)

    def __call__(
        self, own: dict, teacher: dict, drawn: Any, student: Pass
    ) -> tuple[Float[Array, ""], Metrics]:
        """Returns the loss of the tap, all its positions in one vector."""
        (name,) = self.taps(student.denoiser)
        vectors = rearrange(student.taps[name], "b ... -> b (...)")
        loss = _FORMS[self.form](
            vectors.astype(jnp.float32), self.temperature, self.margin
        )
        return loss, {"loss": single(loss)}


def infonce_l2(
    vectors: Float[Array, "batch features"], temperature: float, margin: float
) -> Float[Array, ""]:
    """log of the mean of exp(-D / tau) over all pairs."""
    logits = -_squared_distances(vectors) / temperature
    return jax.nn.logsumexp(logits) - jnp.log(logits.size)


def infonce_cosine(
    vectors: Float[Array, "batch features"], temperature: float, margin: float
) -> Float[Array, ""]:
    """The same with D = - cosine."""
    unit = normalise(vectors)
    logits = _products(unit) / temperature
    return jax.nn.logsumexp(logits) - jnp.log(logits.size)


def hinge(
    vectors: Float[Array, "batch features"], temperature: float, margin: float
) -> Float[Array, ""]:
    """The mean of max(0, margin - D)^2 over all pairs."""
    return jnp.mean(jnp.maximum(margin - _squared_distances(vectors), 0) ** 2)


def covariance(
    vectors: Float[Array, "batch features"], temperature: float, margin: float
) -> Float[Array, ""]:
    """The sum of squares of the covariances of different features."""
    centred = vectors - vectors.mean(axis=0)
    # The features may be more than a matrix of them fits: the same sum by the images.
    gram = _products(centred) / (len(vectors) - 1)
    variances = jnp.sum(centred**2, axis=0) / (len(vectors) - 1)
    return jnp.sum(gram**2) - jnp.sum(variances**2)


_FORMS = {
    "infonce_l2": infonce_l2,
    "infonce_cosine": infonce_cosine,
    "hinge": hinge,
    "covariance": covariance,
}


def _products(vectors):
    return jnp.dot(vectors, vectors.T, precision=jax.lax.Precision.HIGHEST)


def _squared_distances(vectors):
    """Of all pairs, each with itself too, per feature."""
    # What all have in common would only be rounded away: it may be most of them.
    vectors = vectors - vectors.mean(axis=0)
    squares = jnp.sum(vectors**2, axis=-1)
    distances = squares[:, None] + squares - 2 * _products(vectors)
    return jnp.maximum(distances, 0) / vectors.shape[-1]
