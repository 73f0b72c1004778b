"""Which feature network config.fid asks for."""

import pathlib

import jax
from absl import logging

from ddae_jax.data.identity import of_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import files, parallel
from ddae_jax.runtime.identity import of
from ddae_jax.tasks.fid.feature_network import (
    FeatureNetwork,
    chain_network,
    inception_network,
)
from ddae_jax.train import feature_classifier
from ddae_jax.train.folders import clear, keep_only
from ddae_jax.weights import inception_file, layer_chain

CLASSIFIER = "classifier"
FOLDER = "fid_classifier"


def cache_folder(experiment: Experiment) -> pathlib.Path:
    """Where converted weights and reference statistics stay."""
    given = experiment.settings.fid.cache
    return pathlib.Path(given).expanduser() if given else files.user_cache()


def feature_network(experiment: Experiment) -> FeatureNetwork:
    """Inception, the classifier of the data set, or the user's network.

    Raises:
      UserError: a file that is missing, damaged or not what its name says.
    """
    features = experiment.settings.fid.features
    if not features:
        try:
            file = inception_file.load(
                experiment.settings.fid.inception, cache_folder(experiment)
            )
        except UserError as error:
            raise UserError(f"config.fid.inception: {error}") from error
        # One at a time is faster on a CPU: see inception_outputs.
        at_once = 1 if jax.default_backend() == "cpu" else None
        return inception_network(file, experiment.settings.fid.resize, at_once)
    if features == CLASSIFIER:
        return chain_network(_classifier(experiment, experiment.workdir / FOLDER))
    path = pathlib.Path(features).expanduser()
    if not path.is_dir():
        raise UserError(
            f"config.fid.features: {features} is no folder; known: empty (Inception), "
            f"{CLASSIFIER}, or a folder of docs/feature_networks.md"
        )
    return chain_network(layer_chain.read(path))


def _classifier(experiment: Experiment, folder: pathlib.Path) -> layer_chain.ChainFile:
    """Reads the classifier of the training set, or trains it."""
    source = experiment.source("train")
    source.check_images()
    steps, seed = (
        experiment.settings.fid.classifier_steps,
        experiment.settings.fid.classifier_seed,
    )
    facts = {
        "images": len(source),
        "images_fingerprint": of_source(source),
        "steps": steps,
        "seed": seed,
    }
    parallel.all_processes(True)  # no process writes while another one looks
    if (folder / layer_chain.DESCRIPTION).is_file():
        found = layer_chain.read(folder)
        if {key: found.about.get(key) for key in facts} == facts:
            return found
    logging.info("fid: training a classifier on %s, %d steps", source.name, steps)
    training = folder / "training"
    identity = of(**facts, devices=experiment.mesh.size)
    try:
        keep_only(training, identity)
        trained = feature_classifier.fit(
            training,
            source,
            experiment.mesh,
            steps,
            seed,
            experiment.settings.train.steps_per_dispatch,
        )
    except UserError as error:
        raise UserError(f"config.fid.features: {error}") from error
    name = f"classifier trained on {source.name}, {steps} steps, seed {seed}"
    about = {
        "trained_on": source.name,
        **facts,
        "training_accuracy": round(trained.accuracy, 4),
    }
    if jax.process_index() == 0:
        layer_chain.write(folder, trained.chain, trained.tensors, name, about)
    clear(training)
    return layer_chain.read(folder)
