"""Trains the heads of the segmentation probe: resumable, split over devices."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from ddae_jax.data.identity import of_masked
from ddae_jax.data.masks import MaskedImages
from ddae_jax.experiment import Experiment
from ddae_jax.features.cache import model_identity
from ddae_jax.features.encode import Encode
from ddae_jax.features.spatial import run_on_images
from ddae_jax.heads import segmentation
from ddae_jax.runtime import checkpoint, compiler, parallel
from ddae_jax.runtime.identity import of
from ddae_jax.tasks.dense.job import Job
from ddae_jax.train import loop, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Feed
from ddae_jax.train.folders import keep_only
from ddae_jax.train.optimizers import Adam, WarmupCosine
from ddae_jax.train.plan import Every, Plan, steps_of_epochs
from ddae_jax.train.state import ClassifierState
from ddae_jax.train.window import Metrics, single, stacked


def folder(experiment: Experiment) -> pathlib.Path:
    """Where heads are trained; it stays where the task is interrupted."""
    return experiment.workdir / f"{experiment.settings.dense.output}_heads"


def fit(
    experiment: Experiment,
    job: Job,
    train: MaskedImages,
    held_out: Bool[np.ndarray, "count"],
    class_count: int,
    statistics: segmentation.Statistics,
) -> tuple[segmentation.Heads, segmentation.Heads]:
    """Heads that did not see the held-out images, and heads that saw all.

    Every batch has fresh noise, that of its place in the endless order. An interrupted
    training goes on in `folder`.

    Args:
      held_out: which images of `train`.
      statistics: of all features of `train`, by which they are standardised.
    """
    settings, trained = experiment.settings.dense, job.trained
    seed, threads = experiment.settings.seed, experiment.settings.data.threads
    # Every image is seen `epochs` times at least: the last batch runs over.
    steps = steps_of_epochs(settings.epochs, len(train), settings.batch_size)
    optimizer = Adam(WarmupCosine(settings.learning_rate, 0, steps), clip_norm=None)
    plan = Plan(
        title="segmentation heads",
        steps=steps,
        batch_size=settings.batch_size,
        steps_per_dispatch=experiment.settings.train.steps_per_dispatch,
        log=Every(max(steps // 10, 1)),
        checkpoint=Every(max(steps // 5, 1)),
        keep=checkpoint.Keep(latest=1, best=False),
        lower="config.dense.learning_rate",
    )
    trainer = _Trainer(
        job,
        optimizer,
        Feed(train.images, settings.batch_size, seed, trained.mesh, threads),
        train,
        held_out,
        class_count,
        statistics,
        (experiment.stream("dense/init"), experiment.stream("dense/train_noise")),
    )
    encode = job.grid_encoder()
    identity = of(
        network=model_identity(encode, trained.variables),
        taps=encode.names,
        time=job.cell.time.time,
        optimizer=optimizer,
        steps=steps,
        batch_size=settings.batch_size,
        data=of_masked(train),
        held_out=held_out,
        class_count=class_count,
        seed=seed,
        devices=trained.mesh.size,
    )
    keep_only(folder(experiment), identity)
    choosing, final = loop.fit(folder(experiment), trainer, plan).params
    return choosing, final


class _Trainer:
    """A `loop.Trainer`. Its params: a list of the `segmentation.Heads` that have not
    seen the held-out images, and of those that have."""

    def __init__(
        self,
        job: Job,
        optimizer: Adam,
        feed: Feed,
        train: MaskedImages,
        held_out: Bool[np.ndarray, "count"],
        class_count: int,
        statistics: segmentation.Statistics,
        keys: tuple[PRNGKeyArray, PRNGKeyArray],
    ):
        self._encode: Encode = job.grid_encoder()
        self._params = job.trained.variables
        self._time = jnp.float32(job.cell.time.time)
        self._optimizer, self._feed = optimizer, feed
        self._train, self._held_out = train, held_out
        widths = tuple((name, len(mean)) for name, (mean, _) in statistics.items())
        self._init = (optimizer, widths, class_count)
        whole = parallel.replicated(feed.mesh)
        self._statistics = jax.tree.map(
            lambda array: parallel.place(array, whole), statistics
        )
        self._init_key, self._noise_key = keys

    def create(self) -> ClassifierState:
        return _create(*self._init, self._feed.mesh, self._init_key)

    def abstract(self) -> ClassifierState:
        return train_state.abstract(
            lambda key: _first_state(*self._init, key), self._feed.mesh, self._init_key
        )

    def dispatch(
        self, state: ClassifierState, step: int, count: int
    ) -> tuple[ClassifierState, Metrics]:
        heads, opt_state, rows = state.params, state.opt_state, []
        for number in range(step, step + count):
            batch = self._feed.batch(number)
            masks, weights = self._targets(number)
            features = run_on_images(
                self._encode,
                self._params,
                batch.images,
                batch.positions,
                self._time,
                self._noise_key,
            )
            heads, opt_state, loss = segmentation.update(
                self._optimizer,
                heads,
                opt_state,
                features,
                self._statistics,
                masks,
                weights,
            )
            rows.append(_metrics(loss))
        done = state.step + count  # on the mesh, as all of the state
        return ClassifierState(done, heads, opt_state), stacked(rows)

    def _targets(
        self, step: int
    ) -> tuple[UInt8[Array, "batch height width"], list[Float[Array, "batch"]]]:
        """Masks, and weights of both sets of heads."""
        split = parallel.batch_sharding(self._feed.mesh)
        indices = self._feed.local_indices(step)
        seen = (~self._held_out)[indices].astype(np.float32)
        masks, *weights = (
            jax.make_array_from_process_local_data(split, part)
            for part in (self._train.read_masks(indices), seen, np.ones_like(seen))
        )
        return masks, weights

    def learning_rate(self, step: int) -> float:
        return optimizers.rate_at(self._optimizer, step)

    def input_seconds(self) -> float:
        """The feed's."""
        return self._feed.seconds

    def flops(self) -> None:
        """Not counted: a step is several programs."""


def _first_state(optimizer, widths, class_count, key) -> ClassifierState:
    heads = segmentation.init(key, dict(widths), class_count)
    both = [heads, jax.tree.map(jnp.copy, heads)]
    return ClassifierState(jnp.int32(0), both, optimizer.init(both))


@compiler.jit(once=True, static_argnums=(0, 1, 2, 3))
def _create(optimizer, widths, class_count, mesh, key):
    state = _first_state(optimizer, widths, class_count, key)
    return parallel.constrain(state, parallel.state_shardings(mesh, state))


@compiler.jit
def _metrics(loss) -> Metrics:
    return {"loss": single(loss)}
