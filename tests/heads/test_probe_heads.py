"""Ridge and neighbours against scikit-learn, attention against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.linear_model
import sklearn.neighbors

from ddae_jax.errors import UserError
from ddae_jax.heads import attentive, knn, linear, ridge


def blobs(count, width, classes, seed=0):
    """Labelled features of overlapping classes, with one constant feature."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    features = centres[labels] + 1.5 * rng.normal(size=(count, width)) + 3
    features[:, -1] = 0.1
    return features.astype(np.float32), labels


@pytest.mark.parametrize("count, width", [(300, 20), (40, 70)], ids=["tall", "wide"])
def test_ridge_is_scikit_learns_for_every_penalty(count, width, monkeypatch):
    monkeypatch.setattr(ridge, "_BLOCK", 77)
    features, labels = blobs(count, width, 4)
    test, test_labels = blobs(200, width, 4, seed=1)
    penalties = (1e-4, 1e-2, 1.0)
    ours = ridge.fit(features, labels, 4, penalties)
    assert ours.kernels.shape == (3, width, 4)
    standard = (features - ours.mean) / ours.scale
    np.testing.assert_allclose(standard[:, :-1].std(axis=0), 1, atol=1e-5)
    predicted = ours.predict(test)
    for i, l2 in enumerate(penalties):
        alpha = count * l2
        targets = np.eye(4)[labels]
        theirs = sklearn.linear_model.Ridge(alpha=alpha).fit(standard, targets)
        np.testing.assert_allclose(ours.kernels[i], theirs.coef_.T, atol=1e-8)
        np.testing.assert_allclose(ours.bias, theirs.intercept_, atol=1e-6)
        classifier = sklearn.linear_model.RidgeClassifier(alpha=alpha)
        classifier.fit(standard, labels)
        expected = classifier.predict((test - ours.mean) / ours.scale)
        np.testing.assert_array_equal(predicted[i], expected)
        accuracy = (expected == test_labels).mean()
        assert ours.accuracies(test, test_labels)[i] == accuracy
    assert np.linalg.norm(ours.kernels[0]) > 1.1 * np.linalg.norm(ours.kernels[2])


@pytest.mark.parametrize("metric", knn.METRICS)
@pytest.mark.parametrize("temperature", [0.0, 0.07])
def test_neighbours_are_scikit_learns_whatever_the_blocks(metric, temperature):
    train, labels = blobs(203, 12, 5)
    train[:, 0] += 50  # a common offset must not cost digits
    queries, _ = blobs(37, 12, 5, seed=1)
    queries[:, 0] += 50
    k = 7
    similarities, indices = knn.neighbours(train, queries, k, metric, 64, 10)
    at_once, same = knn.neighbours(train, queries, k, metric)
    np.testing.assert_array_equal(indices, same)
    np.testing.assert_allclose(similarities, at_once, atol=1e-4)

    def weights(distances):
        if not temperature:
            return np.ones_like(distances)
        return np.exp(
            -(distances if metric == "cosine" else distances**2) / temperature
        )

    theirs = sklearn.neighbors.KNeighborsClassifier(
        k, metric=metric, weights=weights, algorithm="brute"
    ).fit(train.astype(np.float64), labels)
    distances, expected = theirs.kneighbors(queries.astype(np.float64))
    np.testing.assert_array_equal(indices, expected)
    ours = 1 - similarities if metric == "cosine" else np.sqrt(-similarities)
    np.testing.assert_allclose(
        ours, distances, atol=1e-4 if metric == "cosine" else 1e-3
    )
    if temperature and metric == "euclidean":
        return  # exp(-distance^2 / 0.07) underflows there; ours is relative
    predicted = knn.vote(similarities, labels[indices], 5, temperature)
    np.testing.assert_array_equal(predicted, theirs.predict(queries.astype(np.float64)))


def test_votes_by_hand():
    labels = np.array([[0, 1, 1], [2, 1, 0]])
    near = np.array([[0.9, 0.1, 0.1], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(knn.vote(near, labels, 3), [1, 0])
    np.testing.assert_array_equal(knn.vote(near, labels, 3, 0.07), [0, 0])
    with pytest.raises(UserError, match="3 neighbours of 2 training images"):
        knn.neighbours(near, near, 3, "cosine")


def test_an_attentive_head_is_multi_head_cross_attention():
    kind = attentive.AttentiveHead(heads=2, queries=3)
    head = kind.init(jax.random.key(0), 8, 5)
    rng = np.random.default_rng(0)
    head["norm"] = {
        "scale": jnp.asarray(rng.normal(size=8), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=8), jnp.float32),
    }
    head["query"] = head["query"] * 50
    positions = rng.normal(size=(4, 6, 8)).astype(np.float32)
    x = (positions - positions.mean(-1, keepdims=True)) / np.sqrt(
        positions.var(-1, keepdims=True) + 1e-6
    )
    x = x * head["norm"]["scale"] + head["norm"]["bias"]
    keys, values = x @ head["key"], x @ head["value"]
    query = jnp.broadcast_to(head["query"], (4, 3, 8))
    attended = jax.nn.dot_product_attention(
        query.reshape(4, 3, 2, 4), keys.reshape(4, 6, 2, 4), values.reshape(4, 6, 2, 4)
    ).reshape(4, -1)
    expected = linear.logits(head["linear"], attended)
    found = jax.jit(kind.logits)(head, positions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(UserError, match="3 attention heads do not divide 8 features"):
        attentive.AttentiveHead(heads=3).init(jax.random.key(0), 8, 5)


def test_attention_learns_where_the_mean_knows_nothing():
    """One position carries the class; the others cancel it in the mean."""

    def draw(rng, count):
        labels = rng.integers(0, 2, count)
        positions = 0.1 * rng.normal(size=(count, 9, 8))
        marked = rng.integers(0, 9, count)
        sign = 2.0 * labels - 1
        positions[np.arange(count), marked, 0] += 5
        positions[np.arange(count), marked, 1] += 3 * sign
        positions -= positions.mean(axis=1, keepdims=True)
        return positions.astype(np.float32), labels

    rng = np.random.default_rng(0)
    train, labels = draw(rng, 512)
    test, test_labels = draw(rng, 256)
    optimizer = optax.adam(1e-2)

    def accuracy(kind, inputs_of):
        heads = linear.init_heads(jax.random.key(1), [inputs_of(train)], 2, kind)
        state = optimizer.init(heads)
        for _ in range(60):
            heads, state, _ = linear.update(
                optimizer, heads, state, [inputs_of(train)], labels, np.ones(512), kind
            )
        valid = np.ones(256, bool)
        found = linear.count_correct(heads, [inputs_of(test)], test_labels, valid, kind)
        return int(found[0]["tap"]) / 256

    attends = accuracy(attentive.AttentiveHead(2), lambda x: {"tap": jnp.asarray(x)})
    pooled = accuracy(linear.LINEAR, lambda x: {"tap": jnp.asarray(x.mean(axis=1))})
    assert attends > 0.95 and pooled < 0.65
