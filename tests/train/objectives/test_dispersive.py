"""The dispersive loss against its equations, pair by pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.settings import fields
from ddae_jax.train.objectives import dispersive
from ddae_jax.train.objectives.base import Examples
from ddae_jax.train.objectives.dispersive import Dispersive
from ddae_jax.train.state import TrainState
from tests.tools import objectives as tools

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((6, 10))


def pairs(distance):
    """D of all pairs, each with itself too."""
    return np.array([[distance(a, b) for b in VECTORS] for a in VECTORS])


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def minus_cosine(a, b):
    return -sum(a * b) / np.sqrt(sum(a * a) * sum(b * b))


def value(form, temperature=0.5, margin=1.0):
    vectors = jnp.asarray(VECTORS, jnp.float32)
    return form(vectors, temperature, margin)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_infonce_is_the_log_of_the_mean_over_all_pairs(temperature):
    found = value(dispersive.infonce_l2, temperature)
    wanted = np.log(np.mean(np.exp(-pairs(squared) / temperature)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    found = value(dispersive.infonce_cosine, temperature)
    wanted = np.log(np.mean(np.exp(-pairs(minus_cosine) / temperature)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_hinge_counts_pairs_that_are_nearer_than_the_margin():
    distances = pairs(squared)
    for margin in (0.5, 2.0, 4.0):
        found = value(dispersive.hinge, margin=margin)
        wanted = np.mean(np.maximum(0, margin - distances) ** 2)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 10), (12, 3)])
def test_the_covariances_of_different_features_are_summed(shape):
    vectors = np.random.default_rng(1).standard_normal(shape)
    vectors = vectors @ np.random.default_rng(2).standard_normal((shape[1], shape[1]))
    found = dispersive.covariance(jnp.asarray(vectors, jnp.float32), 0.5, 1.0)
    matrix = np.cov(vectors, rowvar=False)
    wanted = sum(
        matrix[i, j] ** 2 for i in range(shape[1]) for j in range(shape[1]) if i != j
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_what_all_features_have_in_common_does_not_blur_their_distances():
    near = 0.01 * VECTORS
    wanted = np.log(np.mean(np.exp(-(0.01**2) * pairs(squared) / 1e-4)))
    found = dispersive.infonce_l2(jnp.asarray(near + 30, jnp.float32), 1e-4, 1.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", fields.declared(Dispersive)["form"][2].choices)
def test_the_gradient_at_equal_features_is_finite(form):
    objective = Dispersive(on=True, form=form)
    recipe = tools.recipe_of(tools.DIT, ("dispersive", objective))

    def loss(tap):
        examples = Examples(jnp.zeros((4, *tools.SHAPE)), jnp.zeros(4), jnp.ones(4))
        state = TrainState(jnp.int32(0), {}, {}, {})
        student = tools.pass_of(recipe, state, examples, {"layer-1": tap})
        return objective({}, {}, {}, student)[0]

    for tap in (jnp.zeros((4, 16, 5)), jnp.full((4, 16, 5), 3.0)):
        value, gradient = jax.value_and_grad(loss)(tap)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.slow
def test_two_optimiser_steps_match_plain_code():
    objective = Dispersive(on=True, weight=2.0, warmup=0.5, temperature=0.7)
    recipe = tools.recipe_of(tools.DIT, ("dispersive", objective), flip=True)

    def term(own, teacher, examples, drawn, params, ema, taps):
        tap = taps["layer-1"]  # a quarter of the way from layer-0 to layer-3
        flat = tap.reshape(len(tap), -1)
        distances = ((flat[:, None] - flat[None]) ** 2).mean(-1)
        loss = jnp.log(jnp.exp(-distances / 0.7).mean())
        return loss, {"loss": loss}

    metrics = tools.check_two_steps(recipe, tools.batch_of(), term)
    wanted = metrics["loss"] + 2 * metrics["dispersive/loss"]
    np.testing.assert_allclose(metrics["total_loss"], wanted, rtol=1e-5)


def test_the_tap_is_a_quarter_of_the_way_or_the_one_that_is_named():
    denoiser = tools.denoiser_of(tools.DIT)
    assert Dispersive().taps(denoiser) == ("layer-1",)
    assert Dispersive(tap="layer-3").taps(denoiser) == ("layer-3",)


def test_an_unknown_form_is_named():
    with pytest.raises(UserError, match="Did you mean 'hinge'"):
        Dispersive(form="hing")
