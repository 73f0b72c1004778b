"""AlignedReID's head against NumPy, on maps of a network and on a denoiser's taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.heads.aligned import AlignedHead
from ddae_jax.models.pooling import grid, positions

MAP = np.random.default_rng(0).normal(1, 2, (4, 5, 3, 6)).astype(np.float32)


def variables_of(head):
    """Not those of the first step, where scale, bias and statistics do nothing."""
    variables = head.init(jax.random.key(0), MAP, train=False)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) + rng.uniform(0.1, 0.5, leaf.shape), variables
    )


def expected(variables, pool, train):
    params, statistics = variables["params"], variables["batch_stats"]["norm"]
    reduced = pool(MAP.astype(np.float64), axis=2) @ params["reduce"]["kernel"]
    mean, variance = statistics["mean"], statistics["variance"]
    if train:
        mean, variance = reduced.mean((0, 1)), reduced.var((0, 1))
    normal = (reduced - mean) / np.sqrt(variance + 1e-5)
    stripes = normal * params["norm"]["scale"] + params["norm"]["bias"]
    return np.maximum(stripes, 0), reduced


@pytest.mark.parametrize("pooling, pool", [("mean", np.mean), ("max", np.max)])
@pytest.mark.parametrize("train", [False, True])
def test_features_are_those_of_the_formulas(pooling, pool, train):
    head = AlignedHead(num_classes=7, stripe_features=9, pooling=pooling)
    variables = variables_of(head)
    found, changed = head.apply(
        variables, MAP, train=train, mutable=["batch_stats"] if train else []
    )
    stripes, reduced = expected(variables, pool, train)
    np.testing.assert_allclose(found.stripes, stripes, rtol=1e-5, atol=1e-5)
    whole = MAP.astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(found.whole, whole, rtol=1e-5, atol=1e-6)
    classes = variables["params"]["classes"]
    logits = whole @ classes["kernel"] + classes["bias"]
    np.testing.assert_allclose(found.logits, logits, rtol=1e-5, atol=1e-5)
    if train:
        before, after = variables["batch_stats"]["norm"], changed["batch_stats"]["norm"]
        for name, new in (
            ("mean", reduced.mean((0, 1))),
            ("variance", reduced.var((0, 1), ddof=1)),
        ):
            wanted = 0.9 * before[name] + 0.1 * new
            np.testing.assert_allclose(after[name], wanted, rtol=1e-5, atol=1e-6)


def test_without_classes_there_are_no_logits():
    head = AlignedHead()
    found, variables = head.init_with_output(jax.random.key(0), MAP, train=True)
    assert found.logits is None and found.stripes.shape == (4, 5, 128)
    assert set(variables["params"]) == {"reduce", "norm"}


def test_tokens_and_low_precision_are_taken():
    tokens = positions(jnp.asarray(MAP.reshape(4, 15, 6), jnp.bfloat16))
    feature_map = grid(tokens, (50, 30))
    head = AlignedHead()
    found, _ = head.init_with_output(jax.random.key(0), feature_map, train=False)
    assert {found.whole.dtype, found.stripes.dtype} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.whole, MAP.mean((1, 2)), atol=0.02)
    low, _ = head.init_with_output(
        jax.random.key(0), jnp.asarray(MAP, jnp.bfloat16), train=False
    )
    np.testing.assert_array_equal(found.stripes, low.stripes)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="pooling 'sum' is unknown; known: mean, max"):
        AlignedHead(pooling="sum")
