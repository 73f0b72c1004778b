"""Every head in TRAINED_HEADS and FIXED_HEADS keeps its contract."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddae_jax.errors import UserError
from ddae_jax.heads import FIXED_HEADS, TRAINED_HEADS, fixed, linear, register_head
from ddae_jax.settings.probe import ProbeSettings

CLASSES, WIDTH = 3, 16
trained = pytest.mark.parametrize("name", TRAINED_HEADS)
fitted = pytest.mark.parametrize("name", FIXED_HEADS)


def blobs(count, seed):
    """Features around a centre per class, which any head tells apart."""
    rng = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(9).normal(size=(CLASSES, WIDTH))
    labels = np.arange(count) % CLASSES
    features = centres[labels] + 0.5 * rng.normal(size=(count, WIDTH)) + 3
    return features.astype(np.float32), labels.astype(np.int32)


def frozen(**changes):
    train, labels = blobs(120, 0)
    test, test_labels = blobs(60, 1)
    held_out = np.arange(120) % 4 == 0
    features = fixed.FrozenFeatures(
        "blobs", train, labels, held_out, test, test_labels, CLASSES
    )
    return dataclasses.replace(features, **changes)


@functools.cache
def score(name):
    return FIXED_HEADS[name](ProbeSettings()).score(frozen())


@fitted
def test_a_fixed_head_learns(name):
    by_held_out, by_test, details = score(name)
    assert 0.9 < by_held_out <= 1 and 0.9 < by_test <= 1
    json.dumps(details)
    again = FIXED_HEADS[name](ProbeSettings()).score(frozen())
    assert again == score(name)


@fitted
def test_a_fixed_head_chooses_without_the_test_set(name):
    wrong = (frozen().test_labels + 1) % CLASSES
    by_held_out, by_test, _ = FIXED_HEADS[name](ProbeSettings()).score(
        frozen(test_labels=wrong)
    )
    assert by_held_out == score(name)[0] and by_test < 0.1
    # Held-out images are asked by a fit that has not seen them.
    labels = frozen().labels.copy()
    labels[frozen().held_out] = (labels[frozen().held_out] + 1) % CLASSES
    by_held_out, *_ = FIXED_HEADS[name](ProbeSettings()).score(frozen(labels=labels))
    assert by_held_out < 0.1


@trained
def test_a_trained_head_is_drawn_and_applied(name):
    kind = TRAINED_HEADS[name](ProbeSettings())
    assert isinstance(kind, linear.Kind) and isinstance(kind.pooled, bool)
    again = TRAINED_HEADS[name](ProbeSettings())
    assert kind == again and hash(kind) == hash(again)  # they share one program
    kind.check(WIDTH)
    head, same, other = (
        kind.init(jax.random.key(seed), WIDTH, CLASSES) for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, head, same)
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), head, other)
    assert any(jax.tree.leaves(differ))
    assert {leaf.dtype for leaf in jax.tree.leaves(head)} == {jnp.dtype("float32")}
    inputs = inputs_of(kind, blobs(6, 2)[0])
    logits = kind.logits(head, inputs)
    assert logits.shape == (6, CLASSES) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    # One example does not depend on those beside it.
    np.testing.assert_allclose(kind.logits(head, inputs[:1]), logits[:1], atol=1e-5)


@trained
def test_a_trained_head_learns(name):
    kind = TRAINED_HEADS[name](ProbeSettings())
    features, labels = blobs(60, 0)
    inputs = [{"tap": inputs_of(kind, features)}]
    optimizer = optax.adam(1e-2)
    heads = linear.init_heads(jax.random.key(0), inputs, CLASSES, kind)
    state, weights = optimizer.init(heads), np.ones(60, np.float32)
    for _ in range(80):
        heads, state, loss = linear.update(
            optimizer, heads, state, inputs, labels, weights, kind
        )
    assert np.isfinite(loss)
    test, test_labels = blobs(60, 1)
    inputs = [{"tap": inputs_of(kind, test)}]
    valid = np.ones(60, bool)
    (found,) = linear.count_correct(heads, inputs, test_labels, valid, kind)
    assert int(found["tap"]) > 0.9 * 60


def inputs_of(kind, features):
    """(batch, features), or with three positions, as the head takes them."""
    if kind.pooled:
        return jnp.asarray(features)
    return jnp.asarray(np.stack([features, features + 0.1, features - 0.1], axis=1))


@pytest.mark.parametrize("name", [*TRAINED_HEADS, *FIXED_HEADS])
def test_a_head_says_how_it_measures(name):
    made = {**TRAINED_HEADS, **FIXED_HEADS}[name](ProbeSettings())
    assert isinstance(made.protocol(), dict)
    json.dumps(made.protocol())


@pytest.mark.parametrize("name", [*TRAINED_HEADS, *FIXED_HEADS])
def test_the_name_cannot_be_taken_by_another(name):
    with pytest.raises(UserError, match=f"there is a head '{name}' already"):
        register_head(name, lambda probe: None)
