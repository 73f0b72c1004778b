"""A workdir with a checkpoint of random weights, for tasks that only read one."""

import jax
import numpy as np
from PIL import Image

from ddae_jax.runtime import checkpoint
from ddae_jax.runtime.files import write_json
from ddae_jax.settings import config_files, schema
from ddae_jax.tasks.finetune import classifier
from ddae_jax.tasks.finetune import saved as finetune_saved
from ddae_jax.train import state as train_state
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of


def make_config():
    """The digits' `:test` variant on the network of run_tools.TINY."""
    config = config_files.load(f"{run_tools.ROOT}/configs/digits.py:test")
    config.network.channels = 32
    config.network.channel_multipliers = (1,)
    config.network.attention = (False,)
    return config


def write_checkpoint(folder, config=None):
    """Step 3 of a network that was never trained."""
    content = {"image_shape": [8, 8, 1], "class_count": 10}
    write_json(folder / "data.json", content)
    recipe = experiment_of(config or make_config()).train_step(10)
    init = train_state.create(recipe.denoiser, recipe.optimizer, (8, 8, 1))
    state = jax.jit(init)(jax.random.key(7))
    with checkpoint.manager(folder, checkpoint.Keep()) as checkpoints:
        checkpoint.save(checkpoints, 3, state, 0.5)


def write_finetuned(folder, config):
    """A classifier of three classes on the tap out_1 of step 3; returns its head."""
    trained = experiment_of(config, folder).trained()
    used = trained.denoiser.used_parameters((8, 8, 1), "out_1")
    rng = np.random.default_rng(0)
    head = {
        "kernel": rng.normal(size=(32, 3)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    network = classifier.select(trained.params, tuple(used))
    (folder / "finetune").mkdir()
    settings = {
        "tap": "out_1",
        "time": 11.0,
        "step": 3,
        "image_shape": [8, 8, 1],
        "class_names": ["cat", "dog", "owl"],
    }
    write_json(folder / "finetune" / finetune_saved.FILE, settings)
    finetune_saved.write(folder / "finetune", {"network": network, "head": head})
    return head


def save(path, pixels):
    """Writes uint8 pixels as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def write_task(folder, count, seed, swap=False):
    """Images whose brightness, dark, medium or bright, decides the class of a pixel."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        mask = rng.integers(0, 3, (2, 2)).repeat(4, 0).repeat(4, 1)
        grey = np.array([20, 128, 235])[mask] + rng.integers(-15, 15, (8, 8))
        mask = np.where(rng.random((8, 8)) < 0.05, 255, mask)
        if swap:
            mask = rng.permutation(mask.ravel()).reshape(8, 8)
        save(folder / "images" / f"{i}.png", grey)
        save(folder / "masks" / f"{i}.png", mask)


def segmentation_config(train, test):
    """Trains on one folder of `write_task`, and tests on the other."""
    config = make_config()
    section = config.dense
    section.parts, section.epochs, section.noise_level = ("segmentation",), 40, 0.05
    section.learning_rate = 3e-2
    section.train_images, section.train_masks = f"{train}/images", f"{train}/masks"
    section.test_images, section.test_masks = f"{test}/images", f"{test}/masks"
    schema.build(config)
    return config
