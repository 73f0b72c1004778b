"""Contrastive self-distillation against MoCo v3's loss and plain code."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import augment, augment_edm
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.models.self_conditioning import SelfConditioning
from ddae_jax.train import objective_state
from ddae_jax.train.objectives.base import Examples
from ddae_jax.train.objectives.contrastive import Contrastive, info_nce
from ddae_jax.train.objectives.projection import Projection
from ddae_jax.train.step import Keys
from tests.tools import objectives as tools

RNG = np.random.default_rng(0)
LIMIT, TEACHER_NOISE, TEMPERATURE, DECAY = 0.4, 0.05, 0.3, 0.9
TERM = Contrastive(
    on=True,
    weight=2.0,
    warmup=0.5,
    tap="out_1",
    hidden=12,
    features=6,
    temperature=TEMPERATURE,
    noise_limit=LIMIT,
    teacher_noise=TEACHER_NOISE,
    teacher_decay=DECAY,
)


def unit(vector):
    return vector / np.sqrt(sum(vector * vector))


def plain_info_nce(queries, keys, counts, temperature):
    """Loss, accuracy and cosine; image by image."""
    losses, hits, cosines = [], [], []
    for number in np.flatnonzero(counts):
        near = [unit(queries[number]) @ unit(key) for key in keys]
        own = math.exp(near[number] / temperature)
        losses.append(-math.log(own / sum(math.exp(c / temperature) for c in near)))
        hits.append(near[number] == max(near))
        cosines.append(near[number])
    loss = 2 * temperature * sum(losses) / max(len(losses), 1)
    return loss, hits, cosines


@pytest.mark.parametrize("counted", [8, 3, 1])
def test_a_query_is_to_find_its_key_among_all_keys_of_the_batch(counted):
    queries, keys = RNG.standard_normal((2, 8, 5))
    keys[::2] += 2 * queries[::2]
    counts = np.arange(8) < counted
    loss, hits, cosines = plain_info_nce(queries, keys, counts, 0.2)
    found = info_nce(
        *(jnp.asarray(x, jnp.float32) for x in (queries, keys)), counts, 0.2
    )
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_array_equal(found.accuracy[:counted], hits)
    np.testing.assert_allclose(found.cosine[:counted], cosines, atol=1e-6)


def test_without_an_image_under_little_noise_there_is_no_loss_and_no_gradient():
    queries, keys = jnp.asarray(RNG.standard_normal((2, 8, 5)), jnp.float32)

    def loss(queries):
        return info_nce(queries, keys, jnp.zeros(8, bool), 0.2).loss

    value, gradient = jax.value_and_grad(loss)(queries)
    assert value == 0 and not gradient.any()


@pytest.mark.slow
def test_loss_and_heads_are_those_of_moco_v3_in_pytorch():
    torch = pytest.importorskip("torch", reason="torch is the reference here")
    x, keys = RNG.standard_normal((2, 16, 5)).astype(np.float32)
    head = Projection((7, 7, 5), batch_norm=True)
    params = tools.shaken(head.init(jax.random.key(0), jnp.asarray(x))["params"])

    def loss(params):
        out = head.apply({"params": params}, jnp.asarray(x))
        return info_nce(out, jnp.asarray(keys), jnp.ones(16, bool), 0.2).loss

    value, gradient = jax.value_and_grad(loss)(params)
    widths, layers = (5, 7, 7, 5), []
    for number in range(3):
        linear = torch.nn.Linear(widths[number], widths[number + 1], bias=False)
        kernel = np.array(params[f"linear{number}"]["kernel"]).T.copy()
        linear.weight.data = torch.from_numpy(kernel)
        norm = torch.nn.BatchNorm1d(widths[number + 1], affine=number < 2)
        layers += [linear, norm]
        if number < 2:
            scale = params[f"norm{number}"]
            norm.weight.data = torch.from_numpy(np.array(scale["scale"]))
            norm.bias.data = torch.from_numpy(np.array(scale["bias"]))
            layers.append(torch.nn.ReLU())
    queries = torch.nn.Sequential(*layers)(torch.from_numpy(x))
    normal = torch.nn.functional.normalize
    logits = normal(queries) @ normal(torch.from_numpy(keys)).T / 0.2
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(16)) * 2 * 0.2
    wanted.backward()
    np.testing.assert_allclose(value, wanted.detach(), rtol=1e-5)
    for number in range(3):
        theirs = layers[3 * number].weight.grad.T
        ours = gradient[f"linear{number}"]["kernel"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "network, tap, views, symmetric",
    [
        pytest.param(tools.DIT, "layer-1", "weak", False, marks=pytest.mark.slow),
        pytest.param(tools.DIT, "layer-1", "weak", True, marks=pytest.mark.campaign),
        pytest.param(tools.UNET, "out_1", "edm", True, marks=pytest.mark.campaign),
    ],
)
def test_two_optimiser_steps_match_plain_code(network, tap, views, symmetric):
    changes = {"tap": tap, "views": views, "symmetric": symmetric}
    objective = tools.changed(TERM, **changes)
    probability = 0.5 if views == "edm" else 0.0
    recipe = tools.recipe_of(
        network,
        ("contrastive", objective),
        flip=True,
        augment_probability=probability,
    )

    def pooled(taps):
        values = taps[tap]
        return values.reshape(len(values), -1, values.shape[-1]).mean(1)

    def teach(teacher, x0, noise, labels):
        sigma = jnp.full(len(x0), TEACHER_NOISE)
        params = teacher["denoiser"]
        _, taps = tools.forward(network, params, x0, noise, sigma, labels)
        return tools.mlp(teacher["projector"], pooled(taps), True)

    def nce(queries, keys, counts):
        queries, keys = (
            x / jnp.sqrt((x**2).sum(1, keepdims=True)) for x in (queries, keys)
        )
        cosines = queries @ keys.T
        chances = jnp.exp(cosines / TEMPERATURE)
        losses = -jnp.log(jnp.diag(chances) / chances.sum(1))
        hits = jnp.diag(cosines) >= cosines.max(1)
        total = counts.sum()
        return (
            2 * TEMPERATURE * (losses * counts).sum() / total,
            (hits * counts).sum() / total,
            (jnp.diag(cosines) * counts).sum() / total,
        )

    def term(own, teacher, examples, drawn, params, ema, taps):
        counts = examples.time <= LIMIT

        def online(features):
            projected = tools.mlp(own["projector"], features, True)
            return tools.mlp(own["predictor"], projected, True)

        labels = drawn.get("augment_labels")
        first = pooled(taps)
        second_key = teach(teacher, drawn["view"], drawn["second_noise"], labels)
        found = [nce(online(first), second_key, counts)]
        if symmetric:
            _, others = tools.forward(
                network,
                params,
                drawn["view"],
                drawn["student_noise"],
                examples.time,
                labels,
            )
            first_key = teach(
                teacher, examples.x0, drawn["first_noise"], examples.augment_labels
            )
            second = online(pooled(others))
            found.append(nce(second, first_key, counts))
        directions = first / jnp.sqrt((first**2).sum(1, keepdims=True))
        spread = ((directions - directions.mean(0)) ** 2).mean(0).sum()
        loss = sum(one[0] for one in found)
        return loss, {
            "loss": loss,
            "accuracy": sum(one[1] for one in found) / len(found),
            "cosine": sum(one[2] for one in found) / len(found),
            "feature_variance": spread,
        }

    batch = tools.batch_of()
    examples, _ = recipe.draw(jnp.int32(1), batch, Keys.of(0))
    assert 0 < sum(examples.time <= LIMIT) < len(examples.time)
    metrics = tools.check_two_steps(recipe, batch, term, DECAY)
    assert 0 < metrics["contrastive/feature_variance"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("views", ["weak", "edm"])
def test_views_are_of_the_same_image_and_noises_differ(views):
    objective = tools.changed(TERM, views=views, augment_probability=1.0)
    recipe = tools.recipe_of(tools.UNET, ("contrastive", objective))
    images = jnp.broadcast_to(
        jnp.arange(0, 240, 30, dtype=jnp.uint8)[:, None, None, None], (8, *tools.SHAPE)
    )
    batch = tools.batch_of().replace(images=images)
    drawn = [
        recipe.draw(jnp.int32(step), batch, Keys.of(0))[0].drawn["contrastive"]
        for step in (0, 0, 1)
    ]
    jax.tree.map(np.testing.assert_array_equal, drawn[0], drawn[1])
    noises = [drawn[0][f"{name}_noise"] for name in ("first", "second", "student")]
    noises.append(drawn[2]["first_noise"])
    for number, noise in enumerate(noises):
        assert abs(float(noise.std()) - 1) < 0.1
        for other in noises[:number]:
            assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1
    view = drawn[0]["view"]
    if views == "edm":  # it moves pixels, and these are all alike
        np.testing.assert_allclose(view, augment.to_float(images), atol=1e-2)
        assert drawn[0]["augment_labels"].shape == (8, augment_edm.LABELS)
    assert view.shape == images.shape
    assert float(jnp.abs(view).max()) <= 1 + 1e-3


def test_latents_of_three_channels_are_no_colours():
    latents = jnp.full((8, *tools.SHAPE), 5.0)
    examples = Examples(latents, latents, jnp.ones(8))
    denoiser = tools.denoiser_of(tools.UNET)
    drawn = TERM.draw(jax.random.key(0), latents, {}, examples, denoiser)
    np.testing.assert_allclose(drawn["view"], latents, rtol=1e-5)  # cropped alone


@pytest.mark.slow
def test_collapsed_features_leave_every_gradient_finite():
    objective = tools.changed(TERM, tap="layer-1")
    recipe = tools.recipe_of(tools.DIT, ("contrastive", objective))
    batch = tools.batch_of()
    state = tools.state_of(recipe, batch, step=tools.STEPS)
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["block_1"]["mlp"] = state.params["block_1"]["mlp"]
    params["patches"]["bias"] += 1
    state = state.replace(params=params)
    state, metrics = jax.jit(recipe)(state, batch, Keys.of(0))
    assert metrics["contrastive/feature_variance"].compute() < 1e-6
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_the_average_holds_what_the_tap_needs_and_no_more():
    recipe = tools.recipe_of(tools.UNET, ("contrastive", TERM))
    state = tools.state_of(recipe, tools.batch_of())
    teacher = state.objectives["contrastive"].teacher
    assert set(teacher) == {"denoiser", "projector"}
    tops = {path.split("/")[0] for path in teacher["denoiser"]}
    assert {"time", "image", "middle_1", "middle_2", "out_1"} <= tops
    assert not tops & {"out_2", "up_1_resample", "norm", "final"}


def test_the_tap_is_that_of_self_conditioning_unless_one_is_named():
    plain = tools.denoiser_of(tools.DIT)
    with_source = SelfConditioning(tap="layer-1")
    conditioned = tools.denoiser_of(tools.DIT.clone(self_condition=with_source))
    open_yet = SelfConditioning(tap="auto")
    searching = tools.denoiser_of(tools.DIT.clone(self_condition=open_yet))
    assert Contrastive().taps(plain) == ("layer-2",)
    assert Contrastive().taps(conditioned) == ("layer-1",)
    assert Contrastive(tap="layer-3").taps(conditioned) == ("layer-3",)
    assert Contrastive(tap="layer-3").taps(searching) == ("layer-3",)


def source_of(channels):
    images = np.zeros((8, 8, 8, 1), np.uint8)
    source = data_source.from_arrays("x", "train", images, [0] * 8, ("a",))
    return dataclasses.replace(source, image_shape=(8, 8, channels))


@pytest.mark.slow
def test_images_whose_class_is_told_are_not_compared():
    network = tools.DIT.clone(num_classes=3)
    objective = tools.changed(TERM, tap="layer-1", symmetric=False, noise_limit=1e6)
    recipe = tools.recipe_of(network, ("contrastive", objective))
    batch = tools.batch_of()
    state = tools.state_of(recipe, batch)
    count = len(batch.images)
    told = np.arange(count) % 2
    labels = jnp.where(told, 0, network.null_label)
    x0 = jnp.asarray(RNG.standard_normal((count, *tools.SHAPE)), jnp.float32)
    examples = Examples(x0, x0, jnp.ones(count), labels)
    taps = {"layer-1": jnp.asarray(RNG.standard_normal((count, 16, 32)), jnp.float32)}
    drawn = {"view": x0, "first_noise": x0, "second_noise": x0}
    one = state.objectives["contrastive"]
    _, metrics = objective(
        one.params,
        objective_state.teacher_of(one, state.params),
        drawn,
        tools.pass_of(recipe, state, examples, taps),
    )
    assert metrics["cosine"].count == count - told.sum()


@pytest.mark.parametrize(
    "changes, network, channels, setup, message",
    [
        ({"views": "edm"}, tools.UNET, 3, {}, "views: edm needs .*augment_probability"),
        ({}, tools.UNET, 3, {"conditional": True}, "views are compared without class"),
        (
            {},
            tools.DIT.clone(num_classes=3),
            3,
            {"conditional": True, "label_dropout": 0.0},
            "config.train.label_dropout above 0",
        ),
    ],
)
def test_what_the_network_cannot_serve_is_said_before_training(
    changes, network, channels, setup, message
):
    objective = tools.changed(TERM, **changes)
    with pytest.raises(UserError, match=message) as error:
        objective.check(tools.setup_of(network, source_of(channels), **setup))
    assert "\n" not in str(error.value)


def test_what_the_network_can_serve_passes():
    TERM.check(tools.setup_of(tools.UNET, source_of(1)))
    edm = tools.changed(TERM, views="edm")
    edm.check(tools.setup_of(tools.UNET, source_of(4), augment_probability=0.1))
