"""A workdir that can be probed without training, and the digits."""

import functools

import jax

from ddae_jax.data import digits
from ddae_jax.runtime import checkpoint
from ddae_jax.runtime.files import write_json
from ddae_jax.settings import schema
from ddae_jax.train import state as train_state
from tests.tools.experiments import experiment_of


def make_config(process="ddpm"):
    sampler = {"ddpm": "ddim", "edm": "heun"}[process]
    config = schema.default(process=process, sampler=sampler)
    config.data.name = "digits"
    config.network.image_channels = 1
    config.network.channels = 32
    config.network.channel_multipliers = (1,)
    config.network.attention = (False,)
    config.network.blocks = 1
    config.probe.classifier = "logistic"
    config.probe.times = (1, 300)
    config.probe.taps = ("out_2", "out_1")
    config.probe.batch_size = 128
    config.probe.train_count = 600
    config.probe.test_count = 200
    return config


def write_workdir(folder):
    """Holds a checkpoint of step 3; its weights are random, unlike `untrained`'s."""
    config = make_config()
    write_json(folder / "data.json", {"image_shape": [8, 8, 1], "class_count": 10})
    recipe = experiment_of(config).train_step(10)
    init = train_state.create(recipe.denoiser, recipe.optimizer, (8, 8, 1))
    state = jax.jit(init)(jax.random.key(7))
    with checkpoint.manager(folder, checkpoint.Keep()) as checkpoints:
        checkpoint.save(checkpoints, 3, state, 0.5)


@functools.cache
def digit_parts():
    """Training and test set."""
    options = dict(folder=None, image_size=None, channels=None)
    return [
        digits.load(split, resident_bytes=1 << 30, **options)
        for split in ("train", "test")
    ]
