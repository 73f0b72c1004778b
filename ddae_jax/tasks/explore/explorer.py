"""What is shown of an image at a noise level, and what is kept to show it quickly."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from ddae_jax.diffusion.times import Time
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment, cell
from ddae_jax.experiment.cell import TapAtTime
from ddae_jax.experiment.trained import Trained
from ddae_jax.heads import palettes, retrieval
from ddae_jax.heads.palettes import Palette
from ddae_jax.runtime import parallel
from ddae_jax.tasks.explore import images as explored_images
from ddae_jax.tasks.explore import levels, passes
from ddae_jax.tasks.explore.images import Named
from ddae_jax.tasks.explore.passes import Image, References
from ddae_jax.tasks.predict.head import Predictor

_FITTED = 2048  # positions of a tap, over all references
_KEPT_BYTES = 1 << 29  # of references, at all noise levels together


@dataclasses.dataclass(frozen=True, eq=False)
class TapMap:
    """The positions of one tap.

    Attributes:
      colours: of their principal components, in [0, 1].
      clusters: the number of each.
    """

    colours: Float[np.ndarray, "rows columns 3"]
    clusters: Int[np.ndarray, "rows columns"]


@dataclasses.dataclass(frozen=True, eq=False)
class Explored:
    """All that the page shows of an image at a noise level.

    Attributes:
      noisy, denoised: see `passes.Seen`.
      maps: of each tap.
      nearest: references by the cosine of the chosen tap's pooled features.
      probabilities: of each class, at this noise level; None without a head.
    """

    noisy: Image
    denoised: Image
    maps: Mapping[str, TapMap]
    nearest: retrieval.Neighbours
    probabilities: Float[np.ndarray, "classes"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class _Beside:
    """References at one noise level.

    Attributes:
      pooled: tap -> normalised features.
      palettes: of each tap.
    """

    pooled: Mapping[str, Float[np.ndarray, "count channels"]]
    palettes: Mapping[str, Palette]

    @property
    def bytes(self) -> int:
        """What is kept of them."""
        arrays = [*self.pooled.values()]
        for palette in self.palettes.values():
            arrays += [palette.axes, palette.centres, palette.labels]
        return sum(array.nbytes for array in arrays)


class Explorer:
    """Answers one question at a time.

    Attributes:
      trained: the checkpoint.
      taps: all that are shown, in the order of depth.
      cell: where the page opens: tap and noise level of the probe.
      levels: of the slider.
      chosen, references: images.
      predictor: gives probabilities; None without a head.
    """

    def __init__(
        self, experiment: Experiment, trained: Trained, predictor: Predictor | None
    ):
        settings = experiment.settings.explore
        parallel.check_batch_size(
            "config.explore.batch_size", settings.batch_size, trained.mesh
        )
        self.trained = trained
        self._settings, self._seed = settings, experiment.settings.seed
        self.taps, self.cell = _taps(experiment, trained)
        shown = predictor is not None and predictor.tap in self.taps
        self.predictor = predictor if shown else None
        self.levels: Sequence[Time] = levels.of(
            trained.denoiser.process, self.cell.time
        )
        self.chosen: Named
        self.references: Named
        self.chosen, self.references = explored_images.of(experiment, trained)
        self._noise = experiment.stream("explore/noise")
        self._references_noise = experiment.stream("explore/references")
        self._kept = _positions(trained, self.taps, len(self.references.names))
        self._first = self._fit(self.cell.time, None)
        self._most = max(_KEPT_BYTES // self._first.bytes, 4)
        self._beside: collections.OrderedDict[int, _Beside] = collections.OrderedDict()

    @property
    def opened_at(self) -> int:
        """Which of `levels` the page opens at."""
        return self.levels.index(self.cell.time)

    @property
    def clusters(self) -> int:
        """Of k-means."""
        return self._settings.clusters

    def explored(self, image: Image, level: int, tap: str) -> Explored:
        """What is shown of an image of `trained.seen_shape`.

        Args:
          level: which of `levels`.
          tap: of the neighbours.
        """
        time, beside = self.levels[level].time, self._at(level)
        seen = passes.look(self.trained, self.taps, image, time, self._noise)
        pooled = {name: grid.mean((0, 1))[None] for name, grid in seen.grids.items()}
        nearest = retrieval.update(
            retrieval.none_yet(1, self._settings.neighbours),
            retrieval.normalise(pooled[tap]),
            np.arange(len(self.references.names)),
            beside.pooled[tap],
        )
        maps = {
            name: TapMap(palette.colours(grid), palette.clusters(grid))
            for name, palette in beside.palettes.items()
            for grid in [seen.grids[name]]
        }
        return Explored(
            seen.noisy, seen.denoised, maps, nearest, self._probabilities(pooled)
        )

    def _probabilities(self, pooled):
        if self.predictor is None:
            return None
        return self.predictor.head.probabilities(pooled[self.predictor.tap])[0]

    def prepare(self, level: int) -> None:
        """Fits what `explored` needs at a noise level, where it is not kept."""
        self._at(level)

    def to_prepare(self, level: int) -> int | None:
        """The nearest level that is not kept; None where all are, or no more can be."""
        missing = {*range(len(self.levels))} - {*self._beside, self.opened_at}
        if not missing or len(self._beside) >= self._most:
            return None
        return min(missing, key=lambda other: abs(other - level))

    def _at(self, level: int) -> _Beside:
        """The references at a noise level; those of the last are kept."""
        if self.levels[level] == self.cell.time:
            return self._first
        if level not in self._beside:
            self._beside[level] = self._fit(self.levels[level], self._first)
            if len(self._beside) > self._most:
                self._beside.popitem(last=False)
        self._beside.move_to_end(level)
        return self._beside[level]

    def _fit(self, level: Time, like: _Beside | None) -> _Beside:
        found: References = passes.references(
            self.trained,
            self._kept,
            self.references.source,
            level.time,
            self._references_noise,
            self._settings.batch_size,
        )
        # For so few values, threads cost far more than they bring.
        with threadpool_limits(1):
            fitted = {
                tap: palettes.fit(
                    points,
                    self._settings.clusters,
                    self._seed,
                    None if like is None else like.palettes[tap],
                )
                for tap, points in found.points.items()
            }
        pooled = {tap: retrieval.normalise(rows) for tap, rows in found.pooled.items()}
        return _Beside(pooled, fitted)


def _taps(
    experiment: Experiment, trained: Trained
) -> tuple[tuple[str, ...], TapAtTime]:
    """All taps, or those of the settings; and one of them, at a noise level."""
    paths = trained.denoiser.network.tap_paths()
    opened_at = cell.choose(experiment, "predict", trained.denoiser)
    named = experiment.settings.explore.taps
    if unknown := [tap for tap in named if tap not in paths]:
        raise UserError(
            f"config.explore.taps: no tap {unknown[0]!r}; known: {', '.join(paths)}"
        )
    # Of several names of one path the first counts, or that which the probe chose.
    by_path = {path: name for name, path in reversed(paths.items())}
    by_path[paths[opened_at.tap]] = opened_at.tap
    taps = named or tuple(by_path[path] for path in dict.fromkeys(paths.values()))
    if opened_at.tap not in taps:
        opened_at = dataclasses.replace(opened_at, tap=taps[len(taps) // 2])
    return tuple(dict.fromkeys(taps)), opened_at


def _positions(trained: Trained, taps: tuple[str, ...], images: int) -> passes.Kept:
    """Which positions of each tap are fitted: some, by chance, where there are many."""
    extra = trained.denoiser.network.extra_tokens
    shapes = trained.denoiser.tap_shapes(trained.image_shape, taps)
    each = max(-(-_FITTED // images), 1)
    kept = []
    for tap in taps:
        shape = shapes[tap].shape
        count = shape[1] * shape[2] if len(shape) == 4 else shape[1] - extra
        chosen = np.random.default_rng(0).permutation(count)[:each]
        kept.append((tap, tuple(sorted(chosen.tolist()))))
    return tuple(kept)
