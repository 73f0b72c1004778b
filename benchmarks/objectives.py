"""What each addition to training costs: one step beside the plain one, turn by turn.

    python -m benchmarks.objectives --config=configs/fashion_mnist_16.py:unet --rounds=9

The time of a step over the plain network's, and the same of the FLOPs of its program:
what they differ by is not explained by arithmetic.
"""

import json
import statistics
import tempfile

import jax
import numpy as np
from absl import app, flags

from benchmarks import timing
from ddae_jax.data import source as data_source
from ddae_jax.experiment import Experiment
from ddae_jax.runtime import parallel
from ddae_jax.settings import config_files, recipes, schema
from ddae_jax.train.feed import Feed
from ddae_jax.train.pretraining import Pretraining

CONFIG = flags.DEFINE_string(
    "config", "configs/fashion_mnist_16.py:unet", "The plain recipe."
)
ADDITIONS = flags.DEFINE_list(
    "additions", ["sc", *(name for name in recipes.ADDITIONS if name != "sc")],
    "Each alone, by its name in settings/recipes.py; sc+csd: both.",
)  # fmt: skip
BATCH = flags.DEFINE_integer("batch", 0, "Images of a step; 0: the recipe's.")
SIZE = flags.DEFINE_integer("size", 0, "Side of the images; 0: the recipe's.")
ROUNDS = flags.DEFINE_integer("rounds", 9, "Steps of each side.")


def trainer(addition: str) -> Pretraining:
    """The trainer of the config with an addition, on random images."""
    config = config_files.load(CONFIG.value)
    recipes.add(config, addition.split("+") if addition else ())
    settings = schema.build(config)
    experiment = Experiment(settings, tempfile.gettempdir())
    channels = settings.network.image_channels or 3
    side = SIZE.value or settings.data.image_size or 32
    batch = BATCH.value or settings.train.batch_size
    shape = (2 * batch, side, side, channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    source = data_source.from_arrays("random", "train", images, [0] * len(images), "a")
    feed = Feed(source, batch, 0, parallel.make_mesh())
    return Pretraining(experiment.train_step(1), feed)


def stepper(one: Pretraining):
    """A call that makes a step."""
    state, step = one.create(), 0

    def run():
        nonlocal state, step
        state, metrics = one.dispatch(state, step, 1)
        step += 1
        jax.block_until_ready((state, metrics))

    return run


def main(_) -> None:
    """Prints a line per addition, and JSON at the end."""
    trainers = {name or "plain": trainer(name) for name in ("", *ADDITIONS.value)}
    sides = {name: stepper(one) for name, one in trainers.items()}
    seconds = timing.alternate(sides, ROUNDS.value)
    plain, rows = seconds["plain"], {}
    flops = {name: one.flops() for name, one in trainers.items()}
    for name, values in seconds.items():
        ratios = np.divide(values, plain)
        rows[name] = {
            "seconds": statistics.median(values),
            "time": statistics.median(values) / statistics.median(plain),
            "time_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
            "flops": flops[name] / flops["plain"],
        }
        low, high = rows[name]["time_quartiles"]
        print(
            f"{name:16s} {rows[name]['seconds']:8.3f} s  "
            f"time x {rows[name]['time']:.3f} ({low:.3f} to {high:.3f})  "
            f"FLOPs x {rows[name]['flops']:.3f}",
            flush=True,
        )
    print(json.dumps({"config": CONFIG.value, "rounds": ROUNDS.value, "rows": rows}))


if __name__ == "__main__":
    app.run(main)
