"""The parts of fine-tuning: which parameters, at which rates, on which targets."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddae_jax.data.label_fraction import labelled_part
from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.errors import UserError
from ddae_jax.models.dit import DiT
from ddae_jax.models.edm2 import EDM2UNet
from ddae_jax.models.lightningdit import LightningDiT
from ddae_jax.models.songunet import SongUNet
from ddae_jax.models.unet import UNet
from ddae_jax.models.uvit import UViT
from ddae_jax.tasks.finetune import depths, mixing
from ddae_jax.tasks.finetune.classifier import Classifier, complete, select
from ddae_jax.tasks.finetune.step import adamw, layer_factors
from ddae_jax.train.optimizers import WarmupCosine

CONV = {"image_channels": 1, "channels": 32, "channel_multipliers": (1, 1)}
CONV |= {"attention": (False, True), "blocks": 1, "dropout": 0.0}
TOKENS = {"image_channels": 1, "hidden_size": 16, "depth": 2, "heads": 2}
SHAPE = (4, 4, 1)
# network, process, tap, top modules of each depth from 0 to the tap
CASES = {
    "unet": (
        UNet(**CONV), DDPM(), "out_2",
        [["time", "image"], ["down_0_0"], ["down_0_resample"], ["down_1_0"],
         ["middle_1"], ["middle_attention"], ["middle_2"], ["out_1"], ["out_2"]],
    ),
    "songunet": (
        SongUNet(**CONV, resolution=4), EDM(), "out_1",
        [["embedding", "enc_4x4_conv"], ["enc_4x4_block0"], ["enc_2x2_down"],
         ["enc_2x2_block0"], ["dec_2x2_in0"], ["dec_2x2_in1"], ["dec_2x2_block0"]],
    ),
    "edm2": (
        EDM2UNet(**CONV), EDM(), "out_3",
        [["embedding", "image"], ["down_0_0"], ["down_0_resample"], ["down_1_0"],
         ["middle_1"], ["middle_2"], ["out_1"], ["out_2"], ["out_3"]],
    ),
    "uvit": (
        UViT(**TOKENS, time_mlp=True), DDPM(), "block_1",
        [["patches", "time", "positions"], ["block_0"], ["block_1"]],
    ),
    "dit": (
        DiT(**TOKENS, num_classes=3), DDPM(), "layer-0",
        [["patches", "positions", "time", "label"], ["block_0"]],
    ),
    "lightningdit": (
        LightningDiT(**TOKENS, num_classes=3, remat="full"), Flow(), "layer-0",
        [["patches", "positions", "time", "label"], ["block_0"]],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_depths_follow_the_order_of_execution_up_to_the_tap(name):
    network, process, tap, layers = CASES[name]
    found = depths.layer_depths(Denoiser(network, process), SHAPE, tap)
    by_module = {path.split("/")[0]: depth for path, depth in found.items()}
    wanted = {module: i for i, layer in enumerate(layers) for module in layer}
    assert by_module == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_reaches_exactly_what_the_tap_depends_on(name):
    network, process, tap, _ = CASES[name]
    denoiser = Denoiser(network, process)
    shapes = depths.parameter_shapes(denoiser, SHAPE)
    rng = np.random.default_rng(0)
    # Not the initial values: some of them, zeros, stop the gradient.
    flat = {
        path: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in shapes.items()
    }
    x0, noise = (jnp.asarray(rng.normal(size=(2, *SHAPE)), jnp.float32) for _ in "01")
    time = 0.05 if name != "unet" else 30.0
    classifier = Classifier(denoiser, tap, time)
    width = classifier.feature_width(SHAPE)
    head = {"kernel": rng.normal(size=(width, 3)), "bias": np.zeros(3)}
    head = jax.tree.map(jnp.float32, head)

    @jax.jit
    def gradient(flat):
        def loss(flat):
            whole = flax.traverse_util.unflatten_dict(flat, sep="/")
            logits = classifier.logits(
                {"network": whole, "head": head}, None, x0, noise
            )
            return jnp.sum(jnp.sin(logits))

        return jax.value_and_grad(loss)(flat)

    value, whole = gradient(flat)
    reached = {path for path, leaf in whole.items() if np.any(np.asarray(leaf))}
    used = denoiser.used_parameters(SHAPE, tap)
    fixed = set(getattr(network, "fixed_parameters", ()))
    assert reached == set(used) - fixed
    assert len(used) < len(flat)
    # What is not there may as well be zero.
    tree = flax.traverse_util.unflatten_dict(flat, sep="/")
    filled = complete(denoiser, select(tree, used), SHAPE)
    assert jax.tree.structure(filled) == jax.tree.structure(tree)
    again, _ = gradient(flax.traverse_util.flatten_dict(filled, sep="/"))
    assert again == value


def test_an_unknown_tap_is_named():
    network, process, *_ = CASES["unet"]
    with pytest.raises(UserError, match="no tap 'out_9'"):
        depths.layer_depths(Denoiser(network, process), SHAPE, "out_9")


def test_adamw_with_rates_by_layer_matches_numpy():
    layers = {"image/kernel": 0, "block/kernel": 1, "block/bias": 1}
    factors = layer_factors(layers, 0.5)
    assert flax.traverse_util.flatten_dict(factors["network"], sep="/") == {
        "image/kernel": 0.25, "block/kernel": 0.5, "block/bias": 0.5,
    }  # fmt: skip
    assert factors["head"] == {"kernel": 1, "bias": 1}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda _: rng.normal(size=(2, 2)).astype("f4"), factors)
    rate, decay, limit = 0.01, 0.1, 1.0
    optimizer = adamw(lambda step: rate, decay, limit, factors)
    state, ours = optimizer.init(params), params
    expected = jax.tree.map(np.float64, params)
    first = second = jax.tree.map(np.zeros_like, expected)
    for step in range(1, 4):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), params)
        updates, state = optimizer.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        clipped = jax.tree.map(lambda g, n=norm: g / max(n / limit, 1), gradient)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, clipped)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, clipped)
        kernels = flax.traverse_util.path_aware_map(
            lambda path, _: path[-1] == "kernel", params
        )

        def move(p, m, v, factor, kernel, t=step):
            adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            return p - rate * factor * (adam + decay * kernel * p)

        expected = jax.tree.map(move, expected, first, second, factors, kernels)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, expected
    )


def test_the_rate_warms_up_and_falls_to_zero():
    schedule = WarmupCosine(2.0, 4, 12)
    rates = [float(schedule(jnp.int32(step))) for step in range(12)]
    np.testing.assert_allclose(rates[:5], [0.5, 1, 1.5, 2, 2], rtol=1e-6)
    falling = 1 + np.cos(np.pi * np.arange(8) / 8)
    np.testing.assert_allclose(rates[4:], falling, rtol=1e-5)
    assert float(WarmupCosine(1.0, 0, 3)(jnp.int32(0))) == 1


def batch(count=5, height=6, width=4, classes=3):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, height, width, 2))
    return jnp.float32(images), jnp.int32(rng.integers(0, classes, count))


def test_targets_are_smoothed_and_mixed_as_published():
    images, labels = batch()
    targets = mixing.smooth_targets(labels, 3, 0.3)
    for row, label in zip(targets, np.asarray(labels), strict=True):
        wanted = [0.1, 0.1, 0.1]
        wanted[label] = 0.8
        np.testing.assert_allclose(row, wanted, rtol=1e-6)
    mixed, blended = mixing.mixup(images, targets, 0.7)
    for i in range(5):
        j = 4 - i
        wanted = 0.7 * images[i] + 0.3 * images[j]
        np.testing.assert_allclose(mixed[i], wanted, rtol=1e-4, atol=1e-6)
        wanted = 0.7 * targets[i] + 0.3 * targets[j]
        np.testing.assert_allclose(blended[i], wanted, rtol=1e-5)


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    images, labels = batch()
    targets = jnp.eye(3)[labels]
    box = tuple(map(jnp.int32, (1, 4, 2, 4)))
    mixed, blended = mixing.cutmix(images, targets, box)
    wanted = np.array(images)
    wanted[:, 1:4, 2:4] = images[::-1, 1:4, 2:4]
    np.testing.assert_array_equal(mixed, wanted)
    share = 1 - 6 / 24
    np.testing.assert_allclose(
        blended, share * targets + (1 - share) * targets[::-1], rtol=1e-6
    )


def test_boxes_have_the_published_size_and_lie_inside():
    draw = jax.jit(mixing.cutmix_box, static_argnums=(2, 3))
    whole = 0
    for seed in range(40):
        box = draw(jax.random.key(seed), 0.75, 32, 16)
        top, bottom, left, right = map(int, box)
        assert 0 <= top <= bottom <= 32 and 0 <= left <= right <= 16
        assert bottom - top <= 16 and right - left <= 8
        whole += (bottom - top) * (right - left) == 16 * 8
    assert 0 < whole < 40  # some reach over the edge


def test_a_batch_is_mixed_in_one_of_the_ways_that_are_on():
    images, labels = batch()
    targets = mixing.smooth_targets(labels, 3)
    same = mixing.Mixing()(jax.random.key(0), images, targets)
    np.testing.assert_array_equal(same[0], images)
    both, kinds = mixing.Mixing(0.8, 1.0), set()
    for seed in range(8):
        mixed, blended = both(jax.random.key(seed), images, targets)
        np.testing.assert_allclose(blended.sum(axis=1), 1, rtol=1e-5)
        pasted = np.isclose(mixed, images) | np.isclose(mixed, images[::-1])
        kinds.add(bool(pasted.all()))
    assert kinds == {True, False}


def test_a_labelled_part_is_stratified_and_grows():
    labels = np.repeat([0, 1, 2], [100, 40, 3])
    part = labelled_part(labels, 0.1, 0)
    assert np.bincount(labels[part]).tolist() == [10, 4, 1]
    assert (np.diff(part) > 0).all()
    assert set(part) <= set(labelled_part(labels, 0.3, 0))
    assert not np.array_equal(part, labelled_part(labels, 0.1, 1))
    assert labelled_part(labels, 1.0, 0).tolist() == list(range(143))
    with pytest.raises(UserError, match=r"in \(0, 1\]"):
        labelled_part(labels, 0.0, 0)
