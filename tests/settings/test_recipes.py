"""The recipes of the other published networks: their values, and that they train."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from ddae_jax.errors import UserError
from ddae_jax.settings import schema
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch
from ddae_jax.train.step import Keys
from tests.tools.configs import load
from tests.tools.experiments import experiment_of

# batch, steps, warm-up, decay from, rate, EMA, dropout, flips, augmentation, parameters
PUBLISHED = {
    # NVlabs/edm, docs/train-help.txt: 200 Mimg, ramp-up 10 Mimg, half-life 0.5 Mimg
    "cifar10:edm_songunet": (
        *(512, 390_625, 19_531, 0, 1e-3, 0.99929, 0.13, False, 0.12, 55_733_891),
    ),
    "cifar10:edm_ncsnpp": (
        *(512, 390_625, 19_531, 0, 1e-3, 0.99929, 0.13, False, 0.12, 56_397_827),
    ),
    # FutureXiang/edm2, config/: 1000 or 2000 epochs, warm-up 200, decay from 400
    "cifar10:edm2_c": (
        *(512, 97_656, 19_531, 0, 4e-4, 0.9993, 0.13, True, 0.0, 39_509_888),
    ),
    "cifar10:edm2_e": (
        *(512, 195_312, 19_531, 39_062, 2e-2, 0.9993, 0.13, True, 0.0, 39_509_888),
    ),
    "cifar100:edm2_e": (
        *(512, 195_312, 19_531, 39_062, 2e-2, 0.9993, 0.13, True, 0.0, 39_509_888),
    ),
    "tiny_imagenet:edm2_c": (
        *(192, 1_041_666, 104_166, 0, 1.5e-4, 0.9993, 0.1, False, 0.0, 62.4e6),
    ),
    "tiny_imagenet:edm2_e": (
        *(192, 1_041_666, 104_166, 208_333, 7.5e-3, 0.9993, 0.1, False, 0.0, 62.4e6),
    ),
    # baofff/U-ViT, configs/cifar10_uvit.py
    "cifar10:uvit_s": (
        *(128, 500_000, 2500, 0, 2e-4, 0.9999, 0.0, True, 0.0, 44.26e6),
    ),
}


@functools.cache  # of recipes with the same network
def parameter_count(denoiser, side):
    return denoiser.parameter_count((side, side, 3))


@pytest.mark.parametrize("given", PUBLISHED)
def test_published_values(given):
    (batch, steps, warmup, decay, rate, ema, dropout, flip, augment, parameters) = (
        PUBLISHED[given]
    )
    config = load(given)
    schema.build(config)
    if "songunet" in given or "ncsnpp" in given:
        assert not config.sampler.clip
    if "edm2" in given:
        assert config.probe.crop == 0
    train = config.train
    assert (train.batch_size, train.steps, train.warmup_steps) == (batch, steps, warmup)
    assert (train.decay_from, train.learning_rate, train.flip) == (decay, rate, flip)
    assert train.ema_decay == pytest.approx(ema, abs=1e-5)
    assert math.isinf(train.clip_norm)
    assert config.network.get("dropout", 0.0) == dropout
    assert train.augment_probability == augment
    assert train.keep_every % train.checkpoint_every == 0
    weights = (train.adam_b1, train.weight_decay, train.ema_warmup)
    assert weights == ((0.99, 0.03, False) if "uvit" in given else (0.9, 0.0, True))
    assert config.name == given.split(":")[0] and config.data.name == config.name
    side = 64 if "tiny" in given else 32
    count = parameter_count(experiment_of(config).denoiser, side)
    # The published counts leave out the learned weight of the loss.
    assert count == pytest.approx(parameters, rel=1.5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", ["cifar10:edm_ncsnpp", "cifar10:edm2_e", "cifar10:uvit_s"]
)
def test_a_step_of_the_recipe_is_one(given):
    """Traced only: augmentation, labels, loss and optimiser go together."""
    config = load(given)
    recipe = experiment_of(config).train_step(10)
    init = train_state.create(recipe.denoiser, recipe.optimizer, (32, 32, 3))
    key = jax.random.key(0)
    state = jax.eval_shape(init, key)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
    batch = Batch(images, numbers, numbers, numbers)
    after, metrics = jax.eval_shape(recipe, state, batch, Keys.of(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].total.shape == ()


def test_ncsnpp_is_the_network_of_the_published_weights():
    network = schema.build(load("cifar10:edm_ncsnpp")).network
    assert network.fourier and network.residual_encoder
    assert network.noise_multiplier == 2 and network.resample_filter == (1, 3, 3, 1)


# base, its views
EXTENDED = {
    "cifar10:ddpm": "weak",
    "cifar10:edm_ddpmpp": "weak",
    "cifar10:edm_ddpmpp_aug": "edm",
    "cifar10:edm_songunet": "edm",
    "cifar10:edm_ncsnpp": "edm",
    "cifar10:uvit_s": "weak",
    "cifar100:": "weak",
    "tiny_imagenet:": "weak",
    "fashion_mnist_16:dit": "weak",
    "imagenet_latent:lightningdit_b": "weak",
    "imagenet_latent:lightningdit_xl": "weak",
}


@pytest.mark.parametrize("given", EXTENDED)
def test_additions_change_what_they_name_alone(given):
    plain, one, two = (load(f"{given}{more}") for more in ("", "+sc", "+sc+csd"))
    for config in (plain, one, two):
        schema.build(config)
        with config.unlocked():
            config.variant = ""
    assert one.network.self_condition.tap == two.network.self_condition.tap == "default"
    assert two.objectives.contrastive.views == EXTENDED[given]
    with two.unlocked():
        two.objectives.contrastive.on = False
        two.objectives.contrastive.views = one.objectives.contrastive.views
    assert two.to_dict() == one.to_dict()
    with one.unlocked():
        one.network.self_condition.tap = ""
    assert one.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    "given, message",
    [
        ("cifar10:edm2_c+sc", "edm2 has no self_condition"),
        ("cifar100:edm2_e+sc+csd", "edm2 has no self_condition"),
        ("cifar10:ddpm+scd", r"unknown 'scd'. Did you mean 'sc'\?"),
        ("tiny_imagenet:edm2+sc", "unknown 'edm2'. .*Known: edm2_c, edm2_e, test"),
        ("cifar10:ddpm+sc+sc", "adds something twice"),
    ],
)
def test_what_cannot_be_added_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        load(given)


@pytest.mark.parametrize("size, parameters", [("b", 130), ("l", 457), ("xl", 674)])
def test_imagenet_latent_has_lightningdits_values(size, parameters):
    config = load(f"imagenet_latent:lightningdit_{size}")
    train, process, sampler = config.train, config.process, config.sampler
    assert (train.batch_size, train.learning_rate, train.adam_b2) == (1024, 2e-4, 0.95)
    assert (train.ema_decay, train.ema_warmup, train.warmup_steps) == (0.9999, False, 0)
    assert train.flip and train.steps == 400 * 1_281_167 // 1024
    assert (process.name, process.cosine_loss) == ("flow", True)
    assert process.time_distribution == "logit_normal"
    assert (sampler.name, sampler.steps, sampler.shift) == ("euler", 250, 0.3)
    assert (config.data.name, config.encode.normalise) == ("latents", "channels")
    count = experiment_of(config).denoiser.parameter_count((32, 32, 4))
    assert round(count / 1e6) == parameters
