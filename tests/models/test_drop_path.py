"""Drop path: whole branches of whole examples, in training alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.models.dit import DiT
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.transformer import DropPath, drop_path_rate
from ddae_jax.models.uvit import UViT

SMALL = {"image_channels": 1, "hidden_size": 16, "depth": 2, "heads": 2}
NETWORKS = (
    DiT(**SMALL, num_classes=0, learned_variance=False),
    LightningDiT(**SMALL, num_classes=0),
    UViT(**SMALL, final_convolution=False),
)


def test_a_branch_is_dropped_or_scaled_by_example_and_the_mean_stays():
    branch = jnp.ones((4000, 2, 3))
    dropped = DropPath(0.25).apply({}, branch, rngs={"dropout": jax.random.key(0)})
    values = np.unique(np.asarray(dropped))
    np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
    assert (np.ptp(np.asarray(dropped), axis=(1, 2)) == 0).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, branch), branch)


def test_the_rate_rises_with_depth_in_training_alone():
    rates = [drop_path_rate(0.3, block, 4, True) for block in range(4)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
    assert [drop_path_rate(0.3, block, 4, False) for block in range(4)] == [0] * 4
    assert drop_path_rate(0.3, 0, 1, True) == 0


@pytest.mark.parametrize(
    "network", NETWORKS, ids=lambda network: type(network).__name__
)
def test_networks_drop_in_training_and_are_unchanged_otherwise(network):
    images = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
    time = jnp.full(6, 0.5)
    params = jax.jit(network.init)(jax.random.key(0), images, time)["params"]
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape),
        params,
    )
    dropping = network.clone(drop_path=0.5)
    shapes = jax.eval_shape(dropping.init, jax.random.key(0), images, time)["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(params)

    @functools.partial(jax.jit, static_argnums=0)
    def plainly(model):
        return model.apply({"params": params}, images, time)

    @functools.partial(jax.jit, static_argnums=0)
    def trained(model, key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply({"params": params}, images, time, train=True, rngs=rngs)

    plain, still = plainly(network), plainly(dropping)
    np.testing.assert_array_equal(plain, still)
    np.testing.assert_array_equal(trained(network, 0), plain)
    one, same, other = (trained(dropping, key) for key in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    changed = np.any(np.asarray(one != plain), axis=(1, 2, 3))
    assert changed.any() and not np.array_equal(one, other)
    remat = trained(dropping.clone(remat=True), 0)
    np.testing.assert_allclose(remat, one, rtol=1e-5, atol=1e-5)
