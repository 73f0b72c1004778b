"""Our attention is JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.models.attention import dot_product_attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_and_gradients_are_those_of_jax(dtype):
    inputs = np.random.default_rng(0).standard_normal((4, 2, 5, 3, 8))
    *inputs, weights = 4 * jnp.asarray(
        inputs, dtype
    )  # large scores, as trained networks have

    def loss(inputs, implementation):
        output = dot_product_attention(*inputs, implementation)
        return (output * weights).astype("float32").sum(), output

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, ours), gradients = run(tuple(inputs), None)
    (_, expected), expected_gradients = run(tuple(inputs), "xla")
    assert ours.dtype == expected.dtype
    for a, b in zip((ours, *gradients), (expected, *expected_gradients), strict=True):
        a, b = np.asarray(a, "float32"), np.asarray(b, "float32")
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_large_scores_do_not_overflow():
    queries = jnp.full((1, 2, 1, 4), 1e3, "float32")
    assert jnp.isfinite(dot_product_attention(queries, queries, queries)).all()
