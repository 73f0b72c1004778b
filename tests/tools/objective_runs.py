"""Trains with all objectives, on the devices that this process has."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from ddae_jax.data import source as data_source
from ddae_jax.data.source import Source
from ddae_jax.runtime import parallel
from ddae_jax.train.feed import Feed
from ddae_jax.train.objectives.alignment import Alignment
from ddae_jax.train.objectives.base import Objective
from ddae_jax.train.objectives.contrastive import Contrastive
from ddae_jax.train.objectives.dispersive import Dispersive
from ddae_jax.train.objectives.self_alignment import SelfAlignment
from ddae_jax.train.pretraining import Pretraining
from tests.tools import objectives as tools
from tests.tools.networks import random_params

NETWORK = tools.DIT.clone(depth=2)
RNG = np.random.default_rng(4)
FEATURES = RNG.standard_normal((32, 2, 2, 5)).astype(np.float32)
COMPARING = (
    ("contrastive", Contrastive(on=True, warmup=0.0, hidden=12, features=6)),
    ("dispersive", Dispersive(on=True)),
)
BY_IMAGE = (
    ("self_alignment", SelfAlignment(on=True, hidden=12)),
    ("alignment", Alignment(on=True, features="x", hidden=12)),
)


def source() -> Source:
    """Random images."""
    images = np.random.default_rng(5).integers(0, 256, (32, *tools.SHAPE), np.uint8)
    return data_source.from_arrays("x", "train", images, [0] * 32, ("a",))


def trained(named: tuple[tuple[str, Objective], ...], accumulate: int = 1) -> dict:
    """All arrays of the state after two steps of batch 16, and the metrics."""
    beside = {f"{name}/features": FEATURES for name, _ in named if name == "alignment"}
    feed = Feed(source(), 16, 3, parallel.make_mesh(), beside=beside)
    recipe = tools.recipe_of(NETWORK, *named, flip=True)
    # The drawn network has gates of zero, its blocks do nothing.
    more = random_params(NETWORK, tools.SHAPE)
    trainer = Pretraining(
        recipe, feed, accumulate, lambda drawn: jax.tree.map(jnp.add, drawn, more)
    )
    state = trainer.create()
    for step in range(2):
        state, metrics = trainer.dispatch(state, step, 1)
    tree = {
        "params": state.params,
        "ema": state.ema,
        "own": {name: one.params for name, one in state.objectives.items()},
        "teacher": {name: one.teacher for name, one in state.objectives.items()},
    }
    found = {"/".join(path): leaf for path, leaf in flatten_dict(tree).items()}
    for name, metric in metrics.items():
        found[f"metrics/{name}"] = metric.total / np.maximum(metric.count, 1)
    return {name: np.asarray(leaf) for name, leaf in found.items()}


if __name__ == "__main__":
    np.savez(sys.argv[1], devices=jax.device_count(), **trained(COMPARING))
