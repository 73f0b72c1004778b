"""The converged probe: multinomial logistic regression on standardised features."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ddae_jax.heads import standardise


@dataclasses.dataclass(frozen=True)
class LogisticRegression:
    """A fitted classifier.

    Attributes:
      mean: of each training feature.
      scale: standard deviation of each training feature; 1 where that is 0.
      kernel: of the linear layer on the standardised features.
      bias: likewise.
      loss: the minimised objective.
      gradient_norm: of the objective, where the search stopped.
      steps: of L-BFGS.
      converged: whether the gradient's norm fell below the tolerance.
    """

    mean: Float[np.ndarray, "features"]
    scale: Float[np.ndarray, "features"]
    kernel: Float[np.ndarray, "features classes"]
    bias: Float[np.ndarray, "classes"]
    loss: float
    gradient_norm: float
    steps: int
    converged: bool

    def predict(
        self, features: Float[np.ndarray, "batch features"]
    ) -> Int[np.ndarray, "batch"]:
        """Returns the most probable class of each example."""
        standard = (features - self.mean) / self.scale
        return np.argmax(standard @ self.kernel + self.bias, axis=1)

    def accuracy(
        self,
        features: Float[np.ndarray, "batch features"],
        labels: Int[np.ndarray, "batch"],
    ) -> float:
        """Returns the share of examples whose class is predicted, in [0, 1]."""
        return float(np.mean(self.predict(features) == labels))


def objective(
    weights: dict[str, Array],
    features: Float[Array, "count features"],
    labels: Int[Array, "count"],
    l2: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Mean cross-entropy + l2 / 2 times the squared norm of the kernel."""
    scores = features @ weights["kernel"] + weights["bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return losses.mean() + 0.5 * l2 * jnp.sum(weights["kernel"] ** 2)


def fit(
    features: Float[np.ndarray, "count features"],
    labels: Int[np.ndarray, "count"],
    class_count: int,
    l2: float,
    tolerance: float = 1e-4,
    max_steps: int = 2000,
) -> LogisticRegression:
    """Standardises the features, and minimises `objective` by L-BFGS to convergence.

    Args:
      labels: in 0..class_count - 1.
      l2: weight of the penalty, beside the mean loss of standardised features; in
        scikit-learn's terms C = 1 / (count l2). The bias is free.
      tolerance: stop where the norm of the gradient is no larger. An objective with
        curvature l2 is then within tolerance^2 / (2 l2) of its minimum.
      max_steps: stop here at the latest.
    """
    mean, scale = standardise.moments(features)
    standard = ((features - mean) / scale).astype(np.float32)
    weights, loss, norm, steps = _minimise(
        jnp.asarray(standard),
        jnp.asarray(labels),
        class_count,
        jnp.float32(l2),
        jnp.float32(tolerance),
        max_steps,
    )
    return LogisticRegression(
        mean.astype(np.float32),
        scale.astype(np.float32),
        np.asarray(weights["kernel"]),
        np.asarray(weights["bias"]),
        float(loss),
        float(norm),
        int(steps),
        bool(norm <= tolerance),
    )


@functools.partial(jax.jit, static_argnames="class_count")
def _minimise(features, labels, class_count, l2, tolerance, max_steps):
    optimizer = optax.lbfgs()

    def value(weights):
        return objective(weights, features, labels, l2)

    value_and_gradient = optax.value_and_grad_from_state(value)

    def unfinished(carry):
        _, _, norm, step = carry
        return (norm > tolerance) & (step < max_steps)

    def improve(carry):
        weights, state, _, step = carry
        loss, gradient = value_and_gradient(weights, state=state)
        updates, state = optimizer.update(
            gradient, state, weights, value=loss, grad=gradient, value_fn=value
        )
        weights = optax.apply_updates(weights, updates)
        # The line search has left the gradient at the new weights in the state.
        gradient = optax.tree.get(state, "grad")
        return weights, state, optax.tree.norm(gradient), step + 1

    weights = {
        "kernel": jnp.zeros((features.shape[1], class_count)),
        "bias": jnp.zeros(class_count),
    }
    start = (weights, optimizer.init(weights), jnp.float32(jnp.inf), 0)
    weights, _, norm, steps = jax.lax.while_loop(unfinished, improve, start)
    return weights, value(weights), norm, steps
