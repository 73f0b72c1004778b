"""Self-representation alignment against plain code: two noise levels, one image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.diffusion.ddpm import DDPM
from ddae_jax.diffusion.edm import EDM
from ddae_jax.diffusion.flow import Flow
from ddae_jax.errors import UserError
from ddae_jax.train.objectives.base import Examples
from ddae_jax.train.objectives.self_alignment import SelfAlignment, less_noisy
from ddae_jax.train.step import Keys
from tests.tools import objectives as tools

TERM = SelfAlignment(on=True, weight=2.0, warmup=0.5, shift=0.3, hidden=12)


def smooth_l1(difference, bend):
    """As PyTorch's documentation has it."""
    far = jnp.abs(difference) - bend / 2
    near = difference**2 / (2 * bend)
    return jnp.where(jnp.abs(difference) < bend, near, far)


@pytest.mark.slow
def test_two_optimiser_steps_match_plain_code():
    recipe = tools.recipe_of(tools.DIT, ("self_alignment", TERM), flip=True)

    def term(own, teacher, examples, drawn, params, ema, taps):
        assert not teacher or set(teacher) == {"denoiser"}
        # The same image and noise as the student's, at the teacher's time.
        _, later = tools.forward(
            tools.DIT, ema, examples.x0, examples.noise, drawn["time"]
        )
        predicted = tools.mlp(own["projector"], taps["layer-1"], False)
        target = later["layer-2"]
        lengths = [jnp.sqrt((x**2).sum(-1)) for x in (predicted, target)]
        cosines = (predicted * target).sum(-1) / lengths[0] / lengths[1]
        loss = smooth_l1(predicted - target, 0.05).mean()
        return loss, {"loss": loss, "cosine": cosines.mean()}

    metrics = tools.check_two_steps(recipe, tools.batch_of(), term)
    assert abs(metrics["self_alignment/cosine"]) < 1


@pytest.mark.slow
def test_the_distance_is_pytorchs_smooth_l1_and_no_gradient_reaches_the_average():
    torch = pytest.importorskip("torch", reason="torch is the reference here")
    recipe = tools.recipe_of(tools.DIT, ("self_alignment", TERM))
    batch = tools.batch_of()
    state = tools.state_of(recipe, batch)
    examples, _ = recipe.draw(state.step, batch, Keys.of(0))
    own = state.objectives["self_alignment"].params
    tap = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16, 32)), "float32")

    def loss(own, ema, tap):
        student = tools.pass_of(
            recipe, state.replace(ema=ema), examples, {"layer-1": tap}
        )
        return TERM(own, {}, examples.drawn["self_alignment"], student)[0]

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    value, (of_own, of_ema, of_tap) = gradient(own, state.ema, tap)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_ema))
    assert all(leaf.any() for leaf in jax.tree.leaves((of_own, of_tap)))
    time = examples.drawn["self_alignment"]["time"]
    _, taps = tools.forward(tools.DIT, state.ema, examples.x0, examples.noise, time)
    predicted = tools.mlp(own["projector"], tap, False)
    pair = (torch.from_numpy(np.array(x)) for x in (predicted, taps["layer-2"]))
    wanted = torch.nn.functional.smooth_l1_loss(*pair, beta=0.05)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


@pytest.mark.parametrize("process", [EDM(), DDPM(), Flow()])
def test_the_average_sees_less_noise_by_the_share_of_a_flow(process):
    time = process.training_times(jax.random.key(0), 64)

    def place(time):
        level = np.asarray(process.noise_level(time), np.float64)
        return level / (1 + level)

    share = jax.random.uniform(jax.random.key(1), (64,), maxval=0.4)
    found = place(less_noisy(process, time, share))
    before = place(time)
    wanted = np.maximum(before - np.asarray(share), np.minimum(before, 0.01))
    # DDPM's times are whole numbers: there the nearest.
    near = 3e-3 if isinstance(process, DDPM) else 1e-5
    np.testing.assert_allclose(found, wanted, atol=near)
    same = less_noisy(process, time, jnp.zeros(64))
    np.testing.assert_allclose(same, time, rtol=1e-4)


def test_the_shift_is_drawn_uniformly_below_its_largest():
    count, denoiser = 2000, tools.denoiser_of(tools.DIT)
    time = jnp.full(count, 4.0)  # 0.8 of the way
    none = jnp.zeros((count, 1, 1, 1))
    examples = Examples(none, none, time)
    drawn = TERM.draw(jax.random.key(0), none, {}, examples, denoiser)["time"]
    shift = 0.8 - np.asarray(drawn / (1 + drawn))
    assert -1e-5 < shift.min() < 0.01 and 0.29 < shift.max() < 0.3
    assert abs(shift.mean() - 0.15) < 0.01


@pytest.mark.slow
def test_maps_of_two_sizes_are_matched_by_position():
    objective = tools.changed(TERM, tap="out_1", teacher_tap="out_2")
    recipe = tools.recipe_of(tools.UNET, ("self_alignment", objective))
    batch = tools.batch_of()
    state = tools.state_of(recipe, batch)
    examples, _ = recipe.draw(state.step, batch, Keys.of(0))
    tap = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4, 4, 64)), "f4")
    own = state.objectives["self_alignment"].params
    student = tools.pass_of(recipe, state, examples, {"out_1": tap})
    drawn = examples.drawn["self_alignment"]
    loss = jax.jit(lambda own: objective(own, {}, drawn, student)[0])(own)
    _, taps = tools.forward(
        tools.UNET, state.ema, examples.x0, examples.noise, drawn["time"]
    )
    assert taps["out_2"].shape == (8, 8, 8, 32)
    larger = tools.bilinear(np.asarray(tap), (8, 8))
    predicted = tools.mlp(own["projector"], larger, False)
    wanted = smooth_l1(predicted - taps["out_2"], 0.05).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_the_taps_come_one_after_the_other():
    images = np.zeros((8, *tools.SHAPE), np.uint8)
    source = data_source.from_arrays("x", "train", images, [0] * 8, ("a",))
    setup = tools.setup_of(tools.DIT, source)
    TERM.check(setup)
    wrong = tools.changed(TERM, tap="layer-2", teacher_tap="layer-2")
    with pytest.raises(UserError, match="teacher_tap: layer-2 does not come after"):
        wrong.check(setup)
