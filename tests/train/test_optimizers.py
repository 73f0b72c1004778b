"""Our clipping beside optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddae_jax.train import norms
from ddae_jax.train.optimizers import Adam


def trees(scale, shapes=((3, 4, 5), (7, 2), (6,), ())):
    rng = np.random.default_rng(0)
    return [jnp.asarray(scale * rng.normal(size=s), jnp.float32) for s in shapes]


@pytest.mark.parametrize("scale", [0.0, 1e-3, 10.0])
def test_clipped_adam_is_optax_s_with_the_same_state(scale):
    params, gradient = trees(1.0), trees(scale)
    ours = Adam(1e-3, weight_decay=0.1)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1)
    )
    state, expected = ours.init(params), theirs.init(params)
    for _ in range(3):
        update, state = jax.jit(ours.update)(gradient, state, params)
        wanted, expected = jax.jit(theirs.update)(gradient, expected, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 1e-6), update, wanted
        )
    assert jax.tree.structure(state) == jax.tree.structure(expected)


def test_the_global_norm_is_optax_s():
    tree = trees(3.0)
    np.testing.assert_allclose(norms.global_norm(tree), optax.global_norm(tree), 1e-6)
