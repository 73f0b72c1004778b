"""Drop path: whole branches of whole examples; networks: see test_conformance.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.models.transformer import DropPath, drop_path_rate


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
