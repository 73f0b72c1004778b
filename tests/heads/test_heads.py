"""Heads: together as apart, the published schedule, and a converged optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
import sklearn.linear_model

from ddae_jax.heads import linear, logistic
from ddae_jax.train.optimizers import Adam, CosineAfterWarmup


def random_inputs(rng):
    """Features of 16 examples at two times, in heads of several widths."""
    widths = [{"out_1": 8, "out_2": 5}, {"out_1": 8, "out_2": 5}]
    return [
        {
            name: jnp.asarray(rng.normal(size=(16, width)), jnp.float32)
            for name, width in at_time.items()
        }
        for at_time in widths
    ]


def train(inputs, labels, steps=5):
    optimizer = Adam(CosineAfterWarmup(0.1, 3, 0, 16, 32), clip_norm=None)
    heads = linear.init_heads(jax.random.key(1), inputs[0], 3)
    state = optimizer.init(heads)
    for step in range(steps):
        heads, state, loss = linear.update(
            optimizer,
            heads,
            state,
            inputs[step % len(inputs)],
            labels,
            jnp.ones(len(labels)),
        )
    return heads, float(loss)


def test_heads_trained_together_are_those_trained_apart():
    rng = np.random.default_rng(0)
    inputs = [random_inputs(rng) for _ in range(2)]
    labels = jnp.asarray(rng.integers(0, 3, 16))
    together, total = train(inputs, labels)
    losses = 0.0
    for time in range(2):
        for name in ("out_1", "out_2"):
            alone, loss = train([[{name: i[time][name]}] for i in inputs], labels)
            losses += loss
            for part in ("kernel", "bias"):
                np.testing.assert_allclose(
                    together[time][name][part], alone[0][name][part], atol=1e-6
                )
    assert total == pytest.approx(losses, rel=1e-5)


def test_one_head_follows_optax_step_by_step():
    rng = np.random.default_rng(2)
    inputs = jnp.asarray(rng.normal(size=(16, 6)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 16))
    heads, _ = train([[{"x": inputs}]], labels)
    head = linear.init_head(jax.random.key(1), 6, 3)
    first = head
    moments = {k: [jnp.zeros_like(v)] * 2 for k, v in head.items()}
    for step in range(5):
        rate = 0.1 * 0.5 * (1 + np.cos(np.pi * (step // 2) / 3))

        def loss(head):
            scores = inputs @ head["kernel"] + head["bias"]
            return -jax.nn.log_softmax(scores)[jnp.arange(16), labels].mean()

        gradient = jax.grad(loss)(head)
        new = {}
        for key, g in gradient.items():
            m, v = moments[key]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            moments[key] = [m, v]
            m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            new[key] = head[key] - rate * m / (jnp.sqrt(v) + 1e-8)
        head = new
    assert not np.allclose(head["kernel"], first["kernel"])
    np.testing.assert_allclose(heads[0]["x"]["kernel"], head["kernel"], atol=2e-5)
    np.testing.assert_allclose(heads[0]["x"]["bias"], head["bias"], atol=2e-5)


def test_initial_values_are_pytorchs():
    head = linear.init_head(jax.random.key(0), 400, 10)
    assert head["kernel"].shape == (400, 10) and head["bias"].shape == (10,)
    for part in head.values():
        assert np.abs(part).max() <= 1 / 20
    assert np.std(head["kernel"]) == pytest.approx(1 / 20 / np.sqrt(3), rel=0.05)
    assert np.abs(head["bias"]).max() > 1 / 40


def test_correct_answers_are_counted_where_valid():
    head = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    inputs = jnp.eye(3)[jnp.array([0, 1, 2, 2])]
    labels = jnp.array([0, 1, 0, 2])
    valid = jnp.array([True, True, True, False])
    found = linear.count_correct([{"a": head}], [{"a": inputs}], labels, valid)
    assert int(found[0]["a"]) == 2


@pytest.fixture(scope="module")
def digits():
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = images.astype(np.float32)
    return (images[:800], labels[:800]), (images[800:], labels[800:])


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_converged_probe_finds_scikit_learns_optimum(digits, l2):
    (images, labels), (test_images, test_labels) = digits
    ours = logistic.fit(images, labels, 10, l2)
    assert ours.converged and ours.gradient_norm <= 1e-4 and ours.steps < 200
    standard = (images - ours.mean) / ours.scale
    theirs = sklearn.linear_model.LogisticRegression(
        C=1 / (len(images) * l2), max_iter=5000, tol=1e-6
    ).fit(standard, labels)
    weights = {
        "kernel": jnp.asarray(theirs.coef_.T, jnp.float32),
        "bias": jnp.asarray(theirs.intercept_, jnp.float32),
    }
    loss = logistic.objective(weights, jnp.asarray(standard), jnp.asarray(labels), l2)
    assert ours.loss == pytest.approx(float(loss), abs=1e-4)
    expected = theirs.score((test_images - ours.mean) / ours.scale, test_labels)
    assert ours.accuracy(test_images, test_labels) == pytest.approx(expected, abs=1e-3)


def test_constant_features_do_no_harm_and_a_limit_is_told(digits):
    (images, labels), _ = digits
    assert (images.std(axis=0) == 0).any()  # the digits' corners are always blank
    with_constant = np.concatenate(
        [images, np.full((len(images), 1), 0.1, np.float32)], axis=1
    )
    fitted = logistic.fit(with_constant, labels, 10, 1e-2)
    assert np.isfinite(fitted.kernel).all() and fitted.scale[-1] == 1
    assert fitted.accuracy(with_constant, labels) > 0.95
    assert not logistic.fit(images, labels, 10, 1e-3, max_steps=2).converged
