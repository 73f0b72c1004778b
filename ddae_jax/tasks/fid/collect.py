"""Features of image after image: the sums of a Gaussian fit, and some of them.

Nothing here grows with the number of images but the features that are to be kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.features.encode import evaluation_inputs
from ddae_jax.metrics import frechet
from ddae_jax.metrics.frechet import FeatureSums, Statistics
from ddae_jax.metrics.inception_score import ScoreSums, score_sums
from ddae_jax.metrics.scores import Score
from ddae_jax.runtime import compiler, log, parallel
from ddae_jax.tasks.fid.feature_network import FeatureNetwork, NetworkOutputs

Images = UInt8[Array, "batch height width channels"]
Extract = Callable[[Images], NetworkOutputs]

# Rows that wait for one update of the sums: it touches width^2 numbers.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Collected:
    """What is known of the images so far.

    Attributes:
      count: of images.
      wanted: which images' features are kept.
      sums: over all features; None before the first.
      kept: blocks of features, float32.
      scores: for the Inception score; None of networks without one.
    """

    count: int = 0
    wanted: Bool[np.ndarray, "total"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, bool), repr=False
    )
    sums: FeatureSums | None = None
    kept: tuple[Float[np.ndarray, "block width"], ...] = ()
    scores: ScoreSums | None = None

    @property
    def total(self) -> int:
        """How many images there will be."""
        return len(self.wanted)

    def add(
        self,
        features: Float[np.ndarray, "block width"],
        logits: Float[np.ndarray, "block classes"] | None,
    ) -> "Collected":
        """Returns what is known with the next images added.

        Raises:
          UserError: a value that is not finite.
        """
        sums = self.sums
        added = frechet.feature_sums(features) if sums is None else sums.add(features)
        count = self.count + len(features)
        wanted = self.wanted[self.count : count]
        kept = (*self.kept, features[wanted]) if wanted.any() else self.kept
        scores = self.scores if logits is None else self.scores.add(logits)
        return Collected(count, self.wanted, added, kept, scores)

    def statistics(self) -> Statistics:
        """The Gaussian fit of all images; a UserError for fewer than two."""
        if self.sums is None:
            raise UserError("no images: statistics need at least 2")
        return self.sums.statistics()

    def features(self) -> Float[np.ndarray, "kept width"] | None:
        """The features that were kept; None where none were."""
        return np.concatenate(self.kept) if self.kept else None

    def inception_score(self) -> Score | None:
        """None of networks without one."""
        return None if self.scores is None else self.scores.score()


def extractor(network: FeatureNetwork, mesh: Mesh) -> Extract:
    """Returns the compiled network with its parameters on every device.

    Every device works on its own part of the batch alone.
    """
    params = jax.tree.map(
        lambda array: parallel.place(np.asarray(array), parallel.replicated(mesh)),
        network.params,
    )
    return functools.partial(_outputs, network.apply, mesh, params)


@compiler.jit(static_argnums=(0, 1))
def _outputs(apply, mesh, params, images):
    split = PartitionSpec(parallel.BATCH_AXES)
    of_parts = jax.shard_map(
        apply,
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        check_vma=False,
    )
    return of_parts(params, images)


def source_batches(source: Source, mesh: Mesh, batch_size: int) -> Iterator[Images]:
    """Yields a whole source, split over the mesh; the last batch is filled up."""
    for images, *_ in evaluation_inputs(source, mesh, batch_size):
        yield images


def start(
    network: FeatureNetwork, count: int, keep: int = 0, splits: int = 0
) -> Collected:
    """Returns what is known before the first of `count` images.

    Args:
      keep: of so many images the features are kept: those of `chosen`.
      splits: parts of the Inception score; 0 for no score.

    Raises:
      UserError: too few images for so many parts.
    """
    scores = None
    if splits and network.classes:
        scores = score_sums(count, splits, network.classes)
    wanted = np.zeros(count, bool)
    wanted[chosen(count, keep)] = True
    return Collected(wanted=wanted, scores=scores)


def chosen(count: int, keep: int) -> Int[np.ndarray, "kept"]:
    """Which images stand for a set: `keep` at random, always the same, in their order.

    The first would not do: folders are in the order of their classes.
    """
    if keep >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, keep, replace=False))


def collect(
    extract: Extract,
    batches: Iterable[Images],
    collected: Collected,
    report: Callable[[Collected], None] | None = None,
    what: str = "images",
) -> Collected:
    """Adds the features of batches to `collected` until it has all images.

    The device works on the next batch while the host adds up the last one.

    Args:
      extract: of `extractor`.
      batches: begin at image `collected.count`; what is beyond its total is filling.
      report: is told now and then, after some images.
      what: the images are, for people.

    Raises:
      UserError: a feature that is not finite, or too few images.
    """
    count, scored = collected.total, collected.scores is not None
    waiting, block = [], []
    done = fetched = collected.count
    progress = log.Progress("fid", count, done)

    def flush(collected):
        features, logits = zip(*block, strict=True)
        block.clear()
        logits = np.concatenate(logits) if scored else None
        collected = collected.add(np.concatenate(features), logits)
        if report is not None:
            report(collected)
        return collected

    def fetch(outputs, valid):
        nonlocal fetched
        features, logits = outputs.features, outputs.score_logits if scored else None
        features, logits = parallel.on_host((features, logits))
        block.append((features[:valid], logits[:valid] if scored else None))
        fetched += valid
        progress.tick(fetched, what)

    for images in batches:
        valid = min(len(images), count - done)
        waiting.append((extract(images), valid))
        done += valid
        if len(waiting) > 1:
            fetch(*waiting.pop(0))
        if sum(len(features) for features, _ in block) >= _BLOCK:
            collected = flush(collected)
        if done == count:
            break
    for outputs, valid in waiting:
        fetch(outputs, valid)
    if block:
        collected = flush(collected)
    progress.close()
    if collected.count != count:
        raise UserError(f"{collected.count} images instead of {count}")
    return collected
