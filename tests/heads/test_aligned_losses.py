"""AlignedReID's losses against NumPy loops, and what they do not pull on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.heads import aligned_losses as losses
from ddae_jax.metrics.euclidean import euclidean_distances
from tests.tools import double_precision

IDENTITIES = np.array([3, 1, 3, 7, 1, 3])
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 4))
OTHERS = RNG.normal(size=(6, 4))
LOGITS, OTHER_LOGITS = 3 * RNG.normal(size=(2, 6, 5))
CLASSES = np.array([0, 2, 4, 1, 2, 3])


@pytest.fixture(autouse=True)
def in_float64():
    with double_precision.float64():
        yield


def plain_distances(features):
    return np.sqrt(np.square(features[:, None] - features[None]).sum(-1))


def plain_pairs(distances):
    everyone = range(len(distances))
    positives, negatives = [], []
    for i in everyone:
        same = [j for j in everyone if IDENTITIES[j] == IDENTITIES[i]]
        rest = [j for j in everyone if IDENTITIES[j] != IDENTITIES[i]]
        positives.append(max(same, key=lambda j, i=i: distances[i, j]))
        negatives.append(min(rest, key=lambda j, i=i: distances[i, j]))
    return positives, negatives


def test_the_hardest_pairs_make_the_loss():
    distances = plain_distances(FEATURES)
    features = jnp.asarray(FEATURES)
    found = euclidean_distances(features, features)
    np.testing.assert_allclose(found, distances, rtol=1e-12, atol=1e-12)
    positives, negatives = plain_pairs(distances)
    pairs = losses.hard_pairs(found, IDENTITIES)
    np.testing.assert_array_equal(pairs.positives, positives)
    np.testing.assert_array_equal(pairs.negatives, negatives)
    assert pairs.positives[3] == 3, "an identity with one image is its own positive"
    # Local distances take the pairs of the global ones, whatever they are themselves.
    local = plain_distances(OTHERS)
    for of_triplets, margin in ((distances, 0.3), (local, 0.3), (local, 1.5)):
        expected = np.mean(
            [
                max(0, margin + of_triplets[i, p] - of_triplets[i, n])
                for i, (p, n) in enumerate(zip(positives, negatives, strict=True))
            ]
        )
        loss = losses.triplet_loss(of_triplets, pairs, margin)
        assert loss == pytest.approx(expected, rel=1e-12)


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_identity_loss_is_the_smoothed_cross_entropy(smoothing):
    expected = 0
    for probabilities, identity in zip(softmax(LOGITS), CLASSES, strict=True):
        for k, probability in enumerate(probabilities):
            target = (1 - smoothing) * (k == identity) + smoothing / 5
            expected -= target * np.log(probability) / len(LOGITS)
    found = losses.identity_loss(LOGITS, CLASSES, smoothing)
    assert found == pytest.approx(expected, rel=1e-12)


def test_mutual_losses_pull_on_one_side_only():
    own, other = softmax(LOGITS), softmax(OTHER_LOGITS)
    divergence = (other * np.log(other / own)).sum(1).mean()
    found = losses.mutual_identity_loss(LOGITS, OTHER_LOGITS)
    assert found == pytest.approx(divergence, rel=1e-12)
    first, second = plain_distances(FEATURES), plain_distances(OTHERS)
    difference = np.mean((first - second) ** 2)
    found = losses.mutual_distance_loss(first, second)
    assert found == pytest.approx(difference, rel=1e-12)
    for loss, arguments in (
        (losses.mutual_identity_loss, (LOGITS, OTHER_LOGITS)),
        (losses.mutual_distance_loss, (first, second)),
    ):
        towards, stopped = jax.grad(loss, argnums=(0, 1))(*arguments)
        np.testing.assert_array_equal(stopped, 0)
        assert np.abs(towards).max() > 1e-3
    # The gradient of the divergence is the difference of the softmaxes.
    towards = jax.grad(losses.mutual_identity_loss)(LOGITS, OTHER_LOGITS)
    np.testing.assert_allclose(towards, (own - other) / len(own), atol=1e-12)


def test_equal_images_give_a_finite_gradient():
    """Two copies of an image in a batch: the root's derivative at 0 is infinite."""
    features = jnp.ones((6, 4), jnp.float32)

    def loss(features):
        distances = euclidean_distances(features, features)
        pairs = losses.hard_pairs(distances, IDENTITIES)
        return losses.triplet_loss(distances, pairs, 0.3)

    value, gradient = jax.value_and_grad(loss)(features)
    assert value == pytest.approx(0.3)
    np.testing.assert_array_equal(gradient, 0)
