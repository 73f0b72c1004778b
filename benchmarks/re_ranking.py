"""Re-ranking in blocks, and the dense method of the published code: seconds, memory.

    python -m benchmarks.re_ranking
    python -m benchmarks.re_ranking --queries=1000 --gallery=4000

Random features of Market1501's size by default. Each side runs in a process of its own,
so that its peak of memory is its own; the dense one only where it fits. Both start from
the features. Random features in clusters: without any, no image has neighbours in
common with another, and the sets that re-ranking works on are empty.
"""

import argparse
import json
import multiprocessing
import resource
import time

import numpy as np

IMAGES_OF_A_PERSON = 20


def random_features(images: int, width: int, seed: int = 0) -> np.ndarray:
    """Not negative as a ResNet's, in clusters: half of the variance is within them."""
    rng = np.random.default_rng(seed)
    persons = max(images // IMAGES_OF_A_PERSON, 1)
    centres = rng.standard_normal((persons, width), np.float32)
    features = rng.standard_normal((images, width), np.float32)
    features += centres[rng.integers(0, persons, images)]
    return np.maximum(features, 0)


def in_blocks(features: np.ndarray, queries: int) -> np.ndarray:
    """Ours."""
    from ddae_jax.metrics import re_ranking

    blocks = re_ranking.re_rank(re_ranking.of_features(features), queries)
    return np.concatenate([block.astype(np.float32) for block in blocks])


def dense(
    features: np.ndarray, queries: int, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """From the formulas of Zhong et al. 2017, with matrices of N x N as published code
    has them, in float32."""
    count = len(features)
    squares = np.square(features).sum(axis=1)
    distances = squares[:, None] + squares - 2 * (features @ features.T)
    np.maximum(distances, 0, out=distances)
    distances /= distances.max(axis=1, keepdims=True)
    ranked = np.argsort(distances, axis=1).astype(np.int32)

    def mutual(i, k):
        forward = ranked[i, : k + 1]
        return forward[(ranked[forward, : k + 1] == i).any(axis=1)]

    encoded = np.zeros_like(distances)
    for i in range(count):
        base = mutual(i, k1)
        members = [base]
        for j in base:
            half = mutual(j, round(k1 / 2))
            if len(np.intersect1d(half, base)) > 2 / 3 * len(half):
                members.append(half)
        members = np.unique(np.concatenate(members))
        weights = np.exp(-distances[i, members])
        encoded[i, members] = weights / weights.sum()
    averaged = np.zeros_like(encoded)
    for i in range(count):
        averaged[i] = encoded[ranked[i, :k2]].mean(axis=0)
    del encoded, ranked
    sharing = [np.flatnonzero(averaged[:, j]) for j in range(count)]
    final = np.empty((queries, count - queries), np.float32)
    for i in range(queries):
        minima = np.zeros(count, np.float32)
        for j in np.flatnonzero(averaged[i]):
            others = sharing[j]
            minima[others] += np.minimum(averaged[i, j], averaged[others, j])
        shares = 1 - minima / (2 - minima)
        final[i] = ((1 - weight) * shares + weight * distances[i])[queries:]
    return final


SIDES = {"blocks": in_blocks, "dense": dense}


def _alone(side, arguments, connection):
    features = random_features(arguments.queries + arguments.gallery, arguments.width)
    if side == "blocks":  # what any use of jax takes
        import jax.numpy as jnp

        jnp.zeros(()).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started = time.perf_counter()
    final = SIDES[side](features, arguments.queries)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sample = final[:: max(len(final) // 50, 1)]
    connection.send(({"seconds": seconds, "GiB": peak, "GiB_before": before}, sample))


def measure(side: str, arguments: argparse.Namespace) -> tuple[dict, np.ndarray]:
    """Seconds and peak memory of a process of its own, and rows of its result."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_alone, args=(side, arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--side", default="blocks,dense")
    arguments = parser.parse_args()
    results, samples = {}, []
    for side in arguments.side.split(","):
        results[side], sample = measure(side, arguments)
        samples.append(sample)
        line = "{seconds:8.1f} s  peak {GiB:.2f} GiB, before it {GiB_before:.2f}"
        print(f"{side:8s}", line.format(**results[side]), flush=True)
    if len(samples) == 2:
        results["largest_difference"] = float(np.abs(samples[0] - samples[1]).max())
    print(json.dumps({**vars(arguments), **results}))


if __name__ == "__main__":
    main()
