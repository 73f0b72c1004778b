"""The order of training: a batch is a pure function of (seed, step)."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ddae_jax.data import batches, source, sources
from ddae_jax.errors import UserError


def test_every_epoch_visits_every_image_once():
    steps = [batches.Order(3, 10).batch(step, 4) for step in range(10)]
    epochs = np.concatenate(steps).reshape(4, 10)
    assert steps[0].dtype == np.int32
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_batches_larger_than_the_set():
    batch = batches.Order(0, 10).batch(1, 25)
    walk = np.concatenate([batches.Order(0, 10).batch(step, 1) for step in range(50)])
    np.testing.assert_array_equal(batch, walk[25:])


def test_the_order_depends_on_seed_and_step_alone():
    order = batches.Order(5, 100)
    forward = [order.batch(step, 8) for step in range(30)]
    for step in reversed(range(30)):
        np.testing.assert_array_equal(
            batches.Order(5, 100).batch(step, 8), forward[step]
        )
    assert (batches.Order(6, 100).batch(0, 8) != forward[0]).any()
    # A change of numpy or of this code would change what a seed means.
    assert batches.Order(0, 10).batch(0, 10).tolist() == FIRST_EPOCH_OF_SEED_0


FIRST_EPOCH_OF_SEED_0 = [8, 0, 3, 7, 6, 4, 1, 5, 2, 9]


def test_order_refuses_negative_seed_and_empty_set():
    for seed, count in ((-1, 5), (0, 0)):
        with pytest.raises(UserError, match="must not be negative"):
            batches.Order(seed, count)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (8, 4), (3, 5), (1, 1)])
def test_evaluation_covers_everything_once(count, size):
    seen = []
    for indices, valid in batches.evaluation_batches(count, size):
        assert indices.shape == valid.shape == (size,)
        assert indices.max() < count
        seen += indices[valid].tolist()
    assert seen == list(range(count))


def streamed():
    images = np.broadcast_to(
        np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 2, 2, 1)
    )
    return source.from_arrays(
        "numbers", "train", images, np.arange(50) % 5, "abcde", resident_bytes=0
    )


def take(count, *arguments, **options):
    return list(itertools.islice(batches.stream(*arguments, **options), count))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_stream_gives_the_batches_in_order(threads):
    order = batches.Order(1, 50)
    got = take(15, streamed(), order, 12, threads=threads, prefetch=2)
    for step, (images, labels, indices) in enumerate(got):
        np.testing.assert_array_equal(indices, order.batch(step, 12))
        np.testing.assert_array_equal(images[:, 0, 0, 0], indices)
        np.testing.assert_array_equal(labels, indices % 5)


def test_stream_starts_anywhere():
    order = batches.Order(1, 50)
    whole = take(12, streamed(), order, 12, threads=2)
    later = take(3, streamed(), order, 12, 9, threads=2)
    for ours, theirs in zip(later, whole[9:], strict=True):
        for left, right in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(left, right)


def test_hosts_read_their_slices():
    order = batches.Order(1, 50)
    shards = [
        take(3, streamed(), order, 12, 2, index, 4, threads=1) for index in range(4)
    ]
    for step in range(3):
        joined = np.concatenate([shard[step][2] for shard in shards])
        np.testing.assert_array_equal(joined, order.batch(2 + step, 12))
    with pytest.raises(UserError, match="global batch size 12 cannot be split"):
        batches.stream(streamed(), order, 12, 0, 0, 5)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_file_stops_the_stream_with_its_name(tmp_path, threads):
    for number in range(4):
        path = tmp_path / "train" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    path.write_bytes(b"broken")
    options = {"folder": str(tmp_path), "image_size": 4, "resident_bytes": 0}
    pictures = sources.load("image_folder", "train", **options)
    with pytest.raises(UserError, match=r"3\.png: not a readable image"):
        take(4, pictures, batches.Order(0, 4), 2, threads=threads)
