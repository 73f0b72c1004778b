"""What blocks recompute changes memory alone: every policy, for every kind of block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.models.dit import DiT
from ddae_jax.models.remat import KEEP_ALL, POLICIES
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT
from tests.tools import networks as tools

SHAPE = (2, 4, 4, 3)
NETWORKS = {
    "unet": UNet(
        channels=32, channel_multipliers=(1,), attention=(True,), blocks=1, dropout=0.1
    ),
    "uvit": UViT().tiny(),
    "dit": DiT(image_channels=3, num_classes=0).tiny(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_policy_gives_the_loss_and_the_gradient_of_none(name):
    network = NETWORKS[name]
    params = tools.random_params(network, SHAPE[1:])
    images = jax.random.normal(jax.random.key(0), SHAPE)
    key = jax.random.key(1)

    @jax.jit
    def of_each(params):
        def loss(params, policy):
            output = network.clone(remat=policy).apply(
                {"params": params},
                images,
                jnp.array([3.0, 40.0]),
                train=True,
                rngs={"dropout": key},
            )
            return jnp.mean(output**2)

        return {
            policy: jax.value_and_grad(loss)(params, policy)
            for policy in (KEEP_ALL, *POLICIES)
        }

    found = of_each(params)
    loss, gradient = found.pop(KEEP_ALL)
    assert np.isfinite(loss) and loss > 0
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for policy, (again, recomputed) in found.items():
        np.testing.assert_allclose(again, loss, rtol=1e-6, err_msg=policy)
        for one, other in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(recomputed), strict=True
        ):
            np.testing.assert_allclose(
                one, other, rtol=1e-4, atol=1e-6 * largest, err_msg=policy
            )


def test_each_policy_recomputes_more_than_the_one_before():
    """Counted in the gradient's program before a compiler changes it."""
    network = NETWORKS["dit"]
    params = tools.shapes_of(network, SHAPE[1:])

    def products(policy):
        def loss(params):
            images, time = jnp.zeros(SHAPE), jnp.ones(2)
            output = network.clone(remat=policy).apply({"params": params}, images, time)
            return jnp.sum(output**2)

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general")

    none, of_products, linear, full = map(products, (KEEP_ALL, *POLICIES))
    assert none == of_products < linear < full
