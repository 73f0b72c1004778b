"""Person re-identification by AlignedReID (Zhang et al. 2017, arXiv 1711.08184).

Trains on a ResNet or on a denoiser up to a tap, then ranks the gallery for each query;
or only ranks, those of the user's own folder too. What it leaves, OUTPUT being
config.reid.output:

    OUTPUT.json OUTPUT.txt OUTPUT.png   the result
    OUTPUT/settings.json                what it was trained with
    OUTPUT/model.safetensors            the weights of one or two networks
    OUTPUT/metrics.jsonl, events        one line every config.reid.log_every steps
    OUTPUT/checkpoints                  to go on from after an interruption
"""

import pathlib

from absl import logging

from ddae_jax.data.person_images import PersonImages
from ddae_jax.experiment import Experiment
from ddae_jax.report import outcome
from ddae_jax.runtime import checkpoint, log, parallel, processes
from ddae_jax.tasks.reid import opening, saved, shown
from ddae_jax.tasks.reid.features import TrainedEmbedder, spread
from ddae_jax.tasks.reid.training import ReidStep, ReidTraining, abstract_state
from ddae_jax.train import loop
from ddae_jax.train.feed import Feed
from ddae_jax.train.plan import Every, Plan


def run(experiment: Experiment) -> None:
    """Trains, goes on or reads what was trained, and evaluates the first network.

    Raises:
      UserError: data, weights or settings that cannot be used, names the field or the
        file; another training under the same config.reid.output; a loss that is not
        finite.
    """
    settings = experiment.settings.reid
    parallel.check_batch_size(
        "config.reid.test_batch_size", settings.test_batch_size, experiment.mesh
    )
    # Before the training: what cannot be tested is said at once.
    query = spread(opening.own_part(experiment, "query"), settings.query_count)
    gallery = spread(opening.own_part(experiment, "gallery"), settings.gallery_count)
    network, facts = _read(experiment, query) if settings.model else _train(experiment)
    found = shown.outcome_of(experiment, network, query, gallery, facts)
    outcome.write(experiment.workdir, settings.output, found)


def _train(experiment: Experiment) -> tuple[TrainedEmbedder, dict]:
    """The trained network, and facts about its training."""
    settings = experiment.settings.reid
    train = opening.training_images(experiment)
    order = opening.order(experiment, train)
    batch_size = settings.persons * settings.images_each
    parallel.check_batch_size(
        "config.reid.persons x config.reid.images_each", batch_size, experiment.mesh
    )
    opened = opening.backbone(experiment, train)
    classes = len(train.source.class_names)
    embedder = opening.embedder(settings, opened, classes)
    recipe = opening.recipe(settings, embedder, order.steps_per_epoch)
    folder = experiment.workdir / settings.output
    content = saved.settings(experiment, opened, train)
    saved.claim(folder, content)
    given, fixed = opened.split(settings.frozen)
    feed = Feed(
        train.source,
        batch_size,
        experiment.settings.seed,
        experiment.mesh,
        experiment.settings.data.threads,
        order=order,
    )
    steps = settings.epochs * order.steps_per_epoch
    logging.info(
        "%s: %s, %d images of %d persons, %d steps",
        settings.output,
        opened.title,
        len(train),
        classes,
        steps,
    )
    plan = Plan(
        title=settings.output,
        steps=steps,
        batch_size=batch_size,
        steps_per_dispatch=settings.steps_per_dispatch,
        log=Every(settings.log_every),
        checkpoint=Every(settings.checkpoint_every),
        keep=checkpoint.Keep(latest=1, best=False),
        lower="config.reid.learning_rate",
    )
    state = loop.fit(folder, ReidTraining(recipe, feed, given, fixed), plan)
    saved.write(folder, state)
    network = TrainedEmbedder(
        embedder,
        state.params["first"],
        state.statistics["first"],
        fixed,
        experiment.mesh,
    )
    return network, _facts(folder, content, opened.title, steps, train)


def _facts(
    folder: pathlib.Path, content: dict, title: str, steps: int, train: PersonImages
) -> dict:
    rows = processes.on_first(lambda: log.read_metrics(folder))
    return {
        "network": title,
        "steps": steps,
        "train_images": len(train),
        "train_persons": len(train.source.class_names),
        "trained_on": train.source.name,
        "trained_with": content,
        "curve": rows,
        # Of all runs, where there were interruptions.
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def _read(experiment: Experiment, query: PersonImages) -> tuple[TrainedEmbedder, dict]:
    """What was trained under config.reid.model, and facts about its training."""
    settings = experiment.settings.reid
    content = saved.find(experiment)
    opened = opening.backbone(experiment, query)
    saved.check_network(experiment, content, opened.determined_by)
    embedder = opening.embedder(settings, opened, content["train_persons"])
    recipe: ReidStep = opening.recipe(settings, embedder, 1)
    given, fixed = opened.split(settings.frozen)
    shape = tuple(query.source.image_shape)
    state = abstract_state(recipe, experiment.mesh, shape, given, fixed)
    folder = experiment.workdir / settings.model
    params, statistics = saved.read(folder, state, experiment.mesh)
    network = TrainedEmbedder(embedder, params, statistics, fixed, experiment.mesh)
    facts = {
        "network": opened.title,
        "train_images": content["train_images"],
        "train_persons": content["train_persons"],
        "trained_on": content["train_name"],
        "trained_with": content,
        "curve": processes.on_first(lambda: log.read_metrics(folder)),
    }
    return network, facts
