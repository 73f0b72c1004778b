"""Training of every kind of denoiser: classes, learned loss weights, augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.errors import UserError
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.unet import UNet
from ddae_jax.runtime import parallel
from ddae_jax.settings import schema
from ddae_jax.train import optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch, Feed
from ddae_jax.train.pretraining import Pretraining
from ddae_jax.train.step import Keys, TrainStep
from tests.tools.experiments import experiment_of

TINY_UNET = {
    "channels": 32,
    "channel_multipliers": (1,),
    "attention": (False,),
    "blocks": 1,
}

TINY_DIT = {
    "image_channels": 1,
    "hidden_size": 32,
    "depth": 1,
    "heads": 2,
    "learned_variance": False,
}


def train(network, process, shape, steps=2, **recipe):
    denoiser = Denoiser(network, process)
    optimizer = optimizers.Adam(1e-3)
    step = TrainStep(denoiser, optimizer, **recipe)
    state = jax.jit(train_state.create(denoiser, optimizer, shape))(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 255, (4, *shape)).astype(np.uint8)
    run = jax.jit(step)
    first = state
    batch = Batch(jnp.array(images), *[jnp.arange(4)] * 3)
    for _ in range(steps):
        state, metrics = run(state, batch, Keys.of(1))
    assert np.isfinite(metrics["loss"].compute())
    assert metrics["gradient_norm"].compute() > 0
    return first, state


def test_labels_reach_a_conditional_network_and_fixed_parameters_stay():
    network = DiT(**TINY_DIT, num_classes=10)
    first, state = train(
        network, DDPM(), (8, 8, 1), steps=3, conditional=True, label_dropout=0.0
    )  # three steps until the gradient has passed all layers that start at zero
    before, after = first.params["label"], state.params["label"]
    table_before, table_after = (jax.tree.leaves(tree)[0] for tree in (before, after))
    changed = np.any(np.asarray(table_before != table_after), axis=1)
    assert changed[:4].all() and not changed[4:].any()
    for tree in (state.params, state.ema):
        np.testing.assert_array_equal(
            tree["positions"]["table"], first.params["positions"]["table"]
        )
    count = Denoiser(network, DDPM()).parameter_count((8, 8, 1))
    total = sum(leaf.size for leaf in jax.tree.leaves(first.params))
    assert count == total - first.params["positions"]["table"].size


@pytest.mark.slow
def test_edm2_learns_the_weight_of_its_loss_and_keeps_unit_weights():
    network = EDM2UNet(
        image_channels=1, channels=32, channel_multipliers=(1,), attention=(False,),
        blocks=1, weight_normalization=True,
    )  # fmt: skip
    first, state = train(network, EDM(), (8, 8, 1))
    projected = network.project(state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        projected,
        state.params,
    )
    variance = [
        network.apply({"params": tree}, jnp.zeros(1), method="log_variance")
        for tree in (first.params, state.params)
    ]
    assert variance[0] != variance[1]


@pytest.mark.slow
def test_augmentation_labels_reach_the_network():
    network = UNet(image_channels=3, augment_channels=9, **TINY_UNET)
    first, state = train(network, EDM(), (8, 8, 3), augment_probability=0.5, flip=True)
    before, after = (
        tree.params["time"]["augment"]["kernel"] for tree in (first, state)
    )
    assert np.any(np.asarray(before != after))


def test_classes_that_the_network_cannot_take_are_refused():
    config = schema.default()
    config.train.class_conditional = True
    with pytest.raises(UserError, match=r"config\.network\.num_classes: 0, but digits"):
        experiment_of(config).train_step(10)


@pytest.mark.slow
def test_flops_of_a_step_are_counted_alike_alone_in_a_loop_and_for_a_cpu():
    shape = (8, 8, 1)
    denoiser = Denoiser(DiT(**TINY_DIT), DDPM())
    step = TrainStep(denoiser, optimizers.Adam(1e-3))
    images = np.zeros((8, *shape), np.uint8)
    options = {"image_size": None, "channels": None, "resident_bytes": 1 << 20}
    source = data_source.from_arrays(
        "zeros", "train", images, np.arange(8), list("abcdefgh"), **options
    )
    feed = Feed(source, 4, 0, parallel.make_mesh())
    counted = []
    for count in (1, 3):
        trainer = Pretraining(step, feed)
        state, metrics = trainer.dispatch(trainer.create(), 0, count)
        assert int(state.step) == len(metrics["loss"].total) == count
        counted.append(trainer.flops())
    alone = trainer._flops_on_cpu()
    assert alone > 1e6
    np.testing.assert_allclose(counted, alone, rtol=0.01)
