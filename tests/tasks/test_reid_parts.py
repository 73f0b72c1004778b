"""Parts of the task reid against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment
from ddae_jax.heads.aligned import AlignedFeatures
from ddae_jax.metrics.person_retrieval import Sightings
from ddae_jax.tasks.reid import evaluate
from ddae_jax.tasks.reid.losses import Losses
from ddae_jax.tasks.reid.training import AdamL2, Augmentation
from ddae_jax.train.optimizers import ConstantThenExponential, rate_at

LABELS = np.array([0, 0, 1, 1, 2, 2])


def features(seed, classes=3):
    rng = np.random.default_rng(seed)
    return AlignedFeatures(
        jnp.asarray(rng.normal(size=(6, 5)), jnp.float32),
        jnp.asarray(np.maximum(rng.normal(size=(6, 3, 4)), 0), jnp.float32),
        jnp.asarray(rng.normal(size=(6, classes)), jnp.float32),
    )


def euclidean(x):
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


def path(first, second):
    sums = {}
    for i, f in enumerate(first):
        for j, g in enumerate(second):
            before = [sums[k] for k in ((i - 1, j), (i, j - 1)) if k in sums]
            step = np.tanh(np.linalg.norm(f - g) / 2)
            sums[i, j] = step + min(before, default=0)
    return sums[len(first) - 1, len(second) - 1]


def expected(found, others, margin=0.3, smoothing=0.1):
    """Terms of one network, by loops over the images."""
    whole, stripes, logits = (np.asarray(part, np.float64) for part in found)
    distances = euclidean(whole)
    triplets, local, persons, divergence = [], [], [], []
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    theirs = np.asarray(others.logits, np.float64)
    theirs = theirs - np.log(np.exp(theirs).sum(1, keepdims=True))
    for i, label in enumerate(LABELS):
        same = label == LABELS
        positive = max(np.flatnonzero(same), key=lambda k: distances[i, k])
        negative = min(np.flatnonzero(~same), key=lambda k: distances[i, k])
        gap = distances[i, positive] - distances[i, negative]
        triplets.append(max(margin + gap, 0))
        gap = path(stripes[i], stripes[positive]) - path(stripes[i], stripes[negative])
        local.append(max(margin + gap, 0))
        target = np.full(3, smoothing / 3) + (1 - smoothing) * (np.arange(3) == label)
        persons.append(-(target * log_softmax[i]).sum())
        p = np.exp(theirs[i])
        divergence.append((p * (theirs[i] - log_softmax[i])).sum())
    gaps = (distances - euclidean(np.asarray(others.whole, np.float64))) ** 2
    return {
        "global_triplet": np.mean(triplets),
        "local_triplet": np.mean(local),
        "identity": np.mean(persons),
        "mutual_distance": gaps.mean(),
        "mutual_identity": np.mean(divergence),
    }


@pytest.mark.slow
def test_the_loss_of_two_networks_is_that_of_the_formulas():
    one, two = features(0), features(1)
    weights = {
        "global_triplet": 1.0,
        "local_triplet": 0.7,
        "identity": 0.4,
        "mutual_distance": 0.2,
        "mutual_identity": 0.6,
    }
    losses = Losses(0.3, 0.7, 0.4, 0.1, 0.6, 0.2, normalise=False)
    total, terms = losses([one, two], jnp.asarray(LABELS))
    wanted = [expected(one, two), expected(two, one)]
    for name in weights:
        mean = np.mean([of[name] for of in wanted])
        assert terms[name] == pytest.approx(mean, rel=1e-5), name
    by_hand = sum(weights[name] * of[name] for of in wanted for name in weights)
    assert total == pytest.approx(by_hand, rel=1e-5)
    assert terms["loss"] == total


@pytest.mark.slow
def test_the_other_network_is_a_constant():
    """Its gradient is that of its own terms, whatever the other one is."""
    losses = Losses(0.3, 0.0, 0.0, 0.0, 0.0, 1.0, normalise=False)
    one, two = features(0), features(1)

    def mutual(one_whole, two_whole):
        found = [one._replace(whole=one_whole), two._replace(whole=two_whole)]
        return losses(found, jnp.asarray(LABELS))[0]

    def alone(one_whole):
        found = [one._replace(whole=one_whole)]
        own = losses(found, jnp.asarray(LABELS))[0]
        x = one_whole[:, None] - one_whole[None]
        squares = (x**2).sum(-1) + jnp.eye(6)
        distances = jnp.where(jnp.eye(6) > 0, 0, jnp.sqrt(squares))
        theirs = jnp.asarray(euclidean(np.asarray(two.whole)))
        return own + ((distances - theirs) ** 2).mean()

    np.testing.assert_allclose(
        jax.grad(mutual)(one.whole, two.whole), jax.grad(alone)(one.whole), atol=1e-5
    )


def test_unit_length_and_no_local_loss():
    losses = Losses(0.3, 0.0, 0.0, 0.0, 1.0, 1.0, normalise=True)
    found = features(0)
    longer = found._replace(whole=3 * found.whole)
    terms = [losses([one], jnp.asarray(LABELS))[1] for one in (found, longer)]
    assert terms[0].keys() == {"loss", "global_triplet"}
    assert terms[0]["loss"] == pytest.approx(float(terms[1]["loss"]), rel=1e-5)


def test_the_rate_is_constant_then_falls_exponentially():
    optimizer = AdamL2(ConstantThenExponential(2e-4, 150, 300, 1e-3), 5e-4)
    rates = [rate_at(optimizer, step) for step in (0, 149, 150, 225, 300, 400)]
    wanted = [2e-4, 2e-4, 2e-4, 2e-4 * 1e-3**0.5, 2e-7, 2e-7]
    np.testing.assert_allclose(rates, wanted, rtol=1e-5)


def test_the_l2_term_is_in_adams_gradient():
    """At a gradient of 0 its first step has the full rate: AdamW's would be tiny."""
    optimizer = AdamL2(ConstantThenExponential(0.1, 10, 20, 0.1), 5e-4)
    params = {"w": jnp.array([2.0, -3.0])}
    state = optimizer.init(params)
    updates, _ = optimizer.update({"w": jnp.zeros(2)}, state, params)
    np.testing.assert_allclose(updates["w"], [-0.1, 0.1], rtol=1e-3)


@pytest.mark.slow
def test_random_erasing_covers_rectangles_of_some_images():
    images = jnp.full((200, 32, 16, 3), 7, jnp.uint8)
    keys = augment.example_keys(jax.random.key(0), jnp.arange(200))
    changed = np.asarray(augment.random_erasing(keys, images, 0.5) != 7).any(-1)
    touched = changed.any((1, 2))
    assert 70 < touched.sum() < 130
    for mask in changed[touched]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.95  # a random pixel can be 7 in all channels
        assert 0.005 < mask.mean() < 0.45
    np.testing.assert_array_equal(augment.random_erasing(keys, images, 0.0), images)
    again = augment.random_erasing(keys[40:50], images[40:50], 0.5)
    whole = augment.random_erasing(keys, images, 0.5)
    np.testing.assert_array_equal(again, whole[40:50])


@pytest.mark.slow
def test_an_image_is_augmented_by_its_position_alone():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (6, 8, 4, 3)), jnp.uint8)
    positions = jnp.arange(10, 16)
    augmentation = Augmentation(flip=True, crop=2, erase=0.5)
    whole = augmentation(jax.random.key(1), images, positions)
    part = augmentation(jax.random.key(1), images[3:], positions[3:])
    np.testing.assert_array_equal(part, whole[3:])
    assert (whole != images).any() and whole.dtype == jnp.uint8


@pytest.fixture(scope="module")
def persons():
    rng = np.random.default_rng(3)

    def of(identities, cameras):
        count = len(identities)
        return evaluate.PersonFeatures(
            rng.normal(size=(count, 6)).astype(np.float32),
            np.abs(rng.normal(size=(count, 3, 4))).astype(np.float32),
            Sightings(np.asarray(identities), np.asarray(cameras)),
        )

    queries = of([1, 1, 2, 3], [1, 2, 1, 1])
    gallery = of([1, 1, 2, 2, 3, 3, 0, 0, 1, 2], [1, 2, 1, 2, 1, 2, 1, 2, 3, 3])
    return queries, gallery


def test_the_table_is_that_of_plain_sorting(persons):
    queries, gallery = persons
    gaps = queries.whole[:, None] - gallery.whole[None]
    whole = np.sqrt((gaps.astype(np.float64) ** 2).sum(-1))
    local = np.array([[path(f, g) for g in gallery.stripes] for f in queries.stripes])
    of_name = {"global": whole, "local": local, "summed": whole + local}
    table = evaluate.table(queries, gallery, re_ranked=evaluate.ReRanking(4, 2))
    assert [(r.distance, r.re_ranked) for r in table] == [
        (name, turn) for name in of_name for turn in (False, True)
    ]
    for name, distances in of_name.items():
        firsts, precisions = [], []
        for row, (person, camera) in enumerate(
            zip(queries.sightings.identities, queries.sightings.cameras, strict=True)
        ):
            same = gallery.sightings.identities == person
            kept = np.flatnonzero(~(same & (gallery.sightings.cameras == camera)))
            order = kept[np.argsort(distances[row, kept])]
            hits = np.flatnonzero(same[order]) + 1
            firsts.append(hits[0])
            precisions.append(np.mean((np.arange(len(hits)) + 1) / hits))
        (found,) = (r for r in table if r.distance == name and not r.re_ranked)
        assert found.evaluation.rank(1) == np.mean(np.array(firsts) == 1)
        assert found.evaluation.rank(5) == np.mean(np.array(firsts) <= 5)
        mean = np.mean(precisions)
        assert found.evaluation.map_precision_at_hits == pytest.approx(mean, abs=1e-9)


def test_the_nearest_images_are_without_the_same_camera(persons):
    queries, gallery = persons
    found = evaluate.nearest(queries, gallery, "global", 4)
    assert found.shape == (4, 4)
    for row, places in enumerate(found):
        person = queries.sightings.identities[row]
        same = gallery.sightings.identities[places] == person
        camera = gallery.sightings.cameras[places] == queries.sightings.cameras[row]
        assert not (same & camera).any()


def test_pooled_queries_are_means_over_a_persons_images_of_one_camera(persons):
    _, gallery = persons
    twice = gallery.take(np.array([0, 1, 0, 8]))
    pooled = evaluate.pooled(twice)
    assert len(pooled) == 3
    np.testing.assert_allclose(pooled.whole[0], gallery.whole[0], rtol=1e-6)
