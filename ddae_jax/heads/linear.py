"""Heads on frozen features, many at once: initialisation, loss, one step."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ddae_jax.runtime import compiler

Features = Float[Array, "batch features"]
Inputs = Float[Array, "batch ..."]
"""(batch, features), or whatever else a head takes."""
Heads = list[dict[str, dict]]
"""For each time, name of the features -> parameters of a head: {"kernel", "bias"} of a
linear one."""


class GradientRule(Protocol):
    """An optax optimiser that is hashable: equal ones share one compiled program."""

    def update(self, gradient: Any, state: optax.OptState) -> tuple:
        """Returns what is added to the parameters, and the next state."""


@runtime_checkable
class Kind(Protocol):
    """What a head is: hashable, its parameters apart.

    Attributes:
      pooled: it takes the mean over positions, not all of them.
    """

    pooled: bool

    def check(self, width: int) -> None:
        """Raises a UserError where it cannot take features of `width`."""

    def protocol(self) -> dict[str, Any]:
        """What a result says of it."""

    def init(self, key: PRNGKeyArray, width: int, class_count: int) -> dict:
        """Draws parameters for features of `width`."""

    def logits(self, head: dict, features: Array) -> Float[Array, "batch classes"]:
        """Applies a head of these parameters."""


def init_head(key: PRNGKeyArray, width: int, class_count: int) -> dict[str, Array]:
    """Draws a linear layer as PyTorch does: all of it uniform within 1/sqrt(width)."""
    bound = width**-0.5
    draws = jax.random.uniform(
        key, (width + 1, class_count), minval=-bound, maxval=bound
    )
    return {"kernel": draws[:-1], "bias": draws[-1]}


def logits(head: dict[str, Array], features: Features) -> Float[Array, "batch classes"]:
    """Applies one linear layer."""
    return features @ head["kernel"] + head["bias"]


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """The linear layer as a `Kind`."""

    pooled: bool = True

    def check(self, width: int) -> None:
        """Any."""

    def protocol(self) -> dict[str, Any]:
        """Nothing: it is the usual one."""
        return {}

    def init(self, key: PRNGKeyArray, width: int, class_count: int) -> dict[str, Array]:
        """`init_head`."""
        return init_head(key, width, class_count)

    def logits(
        self, head: dict[str, Array], features: Features
    ) -> Float[Array, "batch classes"]:
        """`logits`."""
        return logits(head, features)


LINEAR = LinearHead()


def summed_loss(
    heads: Heads,
    features: list[dict[str, Inputs]],
    labels: Int[Array, "batch"],
    weights: Float[Array, "batch"],
    kind: Kind = LINEAR,
) -> Float[Array, ""]:
    """Sum over the heads of their mean cross-entropies, weighted by example.

    A head's gradient is that of its own loss, and Adam works element by element: one
    step on the sum is one step of every head alone.
    """

    def loss(head, inputs):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            kind.logits(head, inputs), labels
        )
        return (losses * weights).sum() / jnp.maximum(weights.sum(), 1)

    return sum(
        loss(at_time[name], inputs[name])
        for at_time, inputs in zip(heads, features, strict=True)
        for name in at_time
    )


def init_heads(
    key: PRNGKeyArray,
    inputs: Sequence[dict[str, Inputs]],
    class_count: int,
    kind: Kind = LINEAR,
) -> Heads:
    """Draws a head for each of `inputs`: for each time, name -> (batch, ..., features).

    All start from one draw, so that a head does not depend on those beside it.
    """
    return [
        {
            name: kind.init(key, value.shape[-1], class_count)
            for name, value in at_time.items()
        }
        for at_time in inputs
    ]


@compiler.jit(static_argnames=("optimizer", "kind"), donate_argnums=(1, 2))
def update(
    optimizer: GradientRule,
    heads: Heads,
    opt_state: optax.OptState,
    inputs: list[dict[str, Inputs]],
    labels: Int[Array, "batch"],
    weights: Float[Array, "batch"],
    kind: Kind = LINEAR,
) -> tuple[Heads, optax.OptState, Float[Array, ""]]:
    """One optimiser step of all heads. Returns them, the state and the summed loss.

    An example of weight 0 is not learned from.
    """
    loss, gradient = jax.value_and_grad(summed_loss)(
        heads, inputs, labels, weights, kind
    )
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(heads, updates), opt_state, loss


@compiler.jit(static_argnames=("kind",))
def count_correct(
    heads: Heads,
    inputs: list[dict[str, Inputs]],
    labels: Int[Array, "batch"],
    valid: Bool[Array, "batch"],
    kind: Kind = LINEAR,
) -> list[dict[str, Int[Array, ""]]]:
    """For each time, name -> how many of the valid examples its head gets right."""
    return [
        {
            name: jnp.sum(
                (kind.logits(head, features[name]).argmax(-1) == labels) & valid
            )
            for name, head in at_time.items()
        }
        for at_time, features in zip(heads, inputs, strict=True)
    ]
