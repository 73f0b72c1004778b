"""The source of self-conditioning by short runs: network.self_condition.tap "auto".

As DDAE++ chooses its layer (Xiang et al., arXiv 2505.10999): the one under which the
training loss falls lowest. The tap that is best for a probe can be another one.
"""

import dataclasses
import shutil

from absl import logging

from ddae_jax.data.identity import of_source
from ddae_jax.data.source import Source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import checkpoint, files, log, processes
from ddae_jax.runtime.identity import of
from ddae_jax.settings import plain, saved
from ddae_jax.settings.source_search import AUTO
from ddae_jax.tasks.pretrain import start
from ddae_jax.train import loop
from ddae_jax.train.folders import keep_only
from ddae_jax.train.plan import At, Every, Plan
from ddae_jax.train.pretraining import Pretraining

NAME = saved.SEARCHED.removesuffix(".json")
# Fields of train that change nothing of a short run.
_LEFT_OUT = (
    "steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_latest",
    "keep_every",
    "keep_best",
)


def is_wanted(experiment: Experiment) -> bool:
    """Whether a search is to choose the source."""
    return experiment.settings.network.self_condition.tap == AUTO


def candidates(experiment: Experiment) -> tuple[Experiment, ...]:
    """The experiment with each tap that can be chosen.

    Raises:
      UserError: one of them cannot be the source, or there is none.
    """
    return tuple(with_source(experiment, tap) for tap in _taps(experiment))


def resolved(experiment: Experiment, source: Source) -> Experiment:
    """The experiment with the tap that the search chooses.

    It writes NAME.json and .txt, and the tap into config.json. An interrupted search
    goes on; one that is done is not repeated.

    Args:
      source: training images.

    Raises:
      UserError: a candidate cannot be the source.
    """
    taps = _taps(experiment)
    identity = of(
        network=plain.of_chosen(experiment.settings, "network"),
        process=plain.of_chosen(experiment.settings, "process"),
        train=_recipe(experiment),
        steps=experiment.settings.source_search.steps,
        taps=taps,
        images=of_source(source),
        seed=experiment.settings.seed,
        dtype=experiment.settings.dtype,
    )
    known = _known(experiment)
    chosen = known.get("tap")
    if known.get("identity") != identity or chosen not in taps:
        losses = {tap: _loss(experiment, source, tap, identity) for tap in taps}
        chosen = min(losses, key=losses.get)
        _write(experiment, losses, chosen, identity)
        done = experiment.workdir / NAME
        processes.on_first(lambda: shutil.rmtree(done, ignore_errors=True))
    logging.info("self-conditioning: the source is %s", chosen)
    found = with_source(experiment, chosen)
    processes.on_first(lambda: saved.write(found.settings, experiment.workdir))
    return found


def with_source(experiment: Experiment, tap: str) -> Experiment:
    """The experiment whose network's self-conditioning has this source."""
    network = experiment.settings.network
    section = dataclasses.replace(network.self_condition, tap=tap)
    settings = dataclasses.replace(
        experiment.settings, network=network.clone(self_condition=section)
    )
    return dataclasses.replace(experiment, settings=settings)


def _taps(experiment: Experiment) -> tuple[str, ...]:
    possible = experiment.settings.network.self_condition_taps()
    asked = experiment.settings.source_search.taps
    for tap in asked:
        if tap not in possible:
            raise UserError(
                f"config.source_search.taps: nothing after {tap} takes the condition; "
                f"known: {', '.join(possible)}"
            )
    if not possible:
        name = experiment.settings.names["network"]
        raise UserError(
            f"config.network.self_condition.tap: auto, but {name} has no such source"
        )
    return asked or possible


def _recipe(experiment: Experiment) -> dict:
    """What of the training a short run depends on."""
    values = plain.of_section(experiment.settings.train)
    return {name: value for name, value in values.items() if name not in _LEFT_OUT}


def _known(experiment: Experiment) -> dict:
    path = experiment.workdir / f"{NAME}.json"
    return processes.on_first(lambda: files.read_json(path)) or {}


def _loss(experiment: Experiment, source: Source, tap: str, identity: str) -> float:
    """The mean training loss over the second half of a short run.

    It begins with the weights that the training is to begin with.
    """
    steps = experiment.settings.source_search.steps
    folder = experiment.workdir / NAME / tap
    keep_only(folder, identity)
    candidate = with_source(experiment, tap)
    recipe = candidate.train_step(len(source.class_names), objectives=())
    train = experiment.settings.train
    plan = Plan(
        title=f"search {tap}",
        steps=steps,
        batch_size=train.batch_size,
        steps_per_dispatch=train.steps_per_dispatch,
        log=At((steps - steps // 2,)),  # and after the last step
        checkpoint=Every(train.checkpoint_every),
        lower="train.learning_rate",
    )
    begin = None
    if train.start_from and not checkpoint.has_any(folder):
        begin = start.find(candidate, source.image_shape)
    trainer = Pretraining(recipe, experiment.feed(source), train.accumulate, begin)
    loop.fit(folder, trainer, plan)
    return processes.on_first(lambda: log.read_metrics(folder)[-1]["loss"])


def _write(experiment, losses, chosen, identity) -> None:
    from ddae_jax.report import outcome  # matplotlib, which few runs need

    settings = experiment.settings
    ranked = sorted(losses, key=losses.get)
    outcome.write(
        experiment.workdir,
        NAME,
        outcome.Outcome(
            title="Source of self-conditioning",
            summary=f"{chosen}: the lowest training loss, {losses[chosen]:.5f}",
            facts={"tap": chosen, "losses": losses, "identity": identity},
            protocol={
                "steps of each run": settings.source_search.steps,
                "loss": "mean over the second half of the steps",
                "batch size": settings.train.batch_size,
                "seed": settings.seed,
            },
            headers=("source", "training loss", "over the lowest"),
            rows=[(tap, losses[tap], losses[tap] - losses[chosen]) for tap in ranked],
            note="All runs see the same images and noise; a difference below what "
            "another seed makes is no preference.",
        ),
    )
