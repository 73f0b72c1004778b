"""Every process in PROCESSES, and every sampler, keeps its contract."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.diffusion import PROCESSES, SAMPLERS, register_process
from ddae_jax.diffusion.process import Process
from ddae_jax.diffusion.sampler import Sampler
from ddae_jax.errors import UserError
from ddae_jax.settings import fields

# From almost clean to almost pure noise, in every process.
LEVELS = jnp.geomspace(0.01, 75, 6)


def two_draws(time):
    """Fixed x0 and noise, one image a time."""
    shape = (len(time), 4, 4, 3)
    x0 = jax.random.uniform(jax.random.key(1), shape, minval=-1)
    return x0, jax.random.normal(jax.random.key(2), shape)


def perfect_output(process, x0, x_t, time):
    """The output whose x0 estimate is x0; the estimate is affine in the output."""
    zeros = outputs_like(process, x_t)
    base = process.x0(zeros, x_t, time)
    slope = process.x0(zeros + 1, x_t, time) - base
    return zeros.at[..., : x_t.shape[-1]].set((x0 - base) / slope)


def outputs_like(process, x_t):
    """Zeros of the shape of the network's output; -1 where that is a variance.

    -1 stands for the lowest variance, which is that of the true posterior.
    """
    if process.learned_variance:
        return jnp.concatenate([jnp.zeros_like(x_t), -jnp.ones_like(x_t)], axis=-1)
    return jnp.zeros_like(x_t)


@pytest.fixture(params=PROCESSES)
def case(request):
    """A process, and its times from clean to noisy."""
    process = PROCESSES[request.param]()
    return process, process.time_at(LEVELS)


def test_noise_level_and_its_inverse(case):
    process, time = case
    level = process.noise_level(time)
    np.testing.assert_allclose(level, process.sigma(time) / process.alpha(time))
    assert np.all(np.diff(level) > 0)  # LEVELS go from clean to noisy
    np.testing.assert_allclose(process.time_at(level), time, rtol=1e-5)


def test_add_noise_has_the_moments_of_the_path(case):
    process, time = case
    noise = jax.random.normal(jax.random.key(0), (len(time), 64, 64, 3))
    x_t = process.add_noise(jnp.full_like(noise, 0.5), noise, time)
    count = noise[0].size
    sigma, alpha = np.asarray(process.sigma(time)), np.asarray(process.alpha(time))
    np.testing.assert_allclose(x_t.std((1, 2, 3)), sigma, rtol=4 / np.sqrt(count))
    deviation = np.abs(x_t.mean((1, 2, 3)) - 0.5 * alpha)
    assert np.all(deviation < 4 * sigma / np.sqrt(count) + 1e-6)


def test_a_perfect_output_gives_back_image_and_noise_at_no_loss(case):
    process, time = case
    x0, noise = two_draws(time)
    x_t = process.add_noise(x0, noise, time)
    output = perfect_output(process, x0, x_t, time)
    level = np.asarray(process.noise_level(time)).reshape(-1, 1, 1, 1)
    # x_t is rounded to float32, which bounds what can be read out of it.
    error = np.abs(process.x0(output, x_t, time) - x0) / (1 + level)
    assert error.max() < 1e-5
    error = np.abs(process.noise_estimate(output, x_t, time) - noise)
    assert (error / (1 + 1 / level)).max() < 1e-5
    loss = jax.jit(process.loss)(output, x0, noise, x_t, time)
    if process.learned_variance:
        assert loss[0] > 0.1  # time 0 costs the bits of the pixels, however good x0
        loss = loss[1:]
    assert np.abs(loss).max() < 1e-5


def test_loss_is_one_value_an_example_with_finite_gradients(case):
    process, time = case
    x0, noise = two_draws(time)
    x_t = process.add_noise(x0, noise, time)

    def total(output):
        loss = process.loss(output, x0, noise, x_t, time)
        assert loss.shape == (len(time),)
        return loss.sum()

    gradient = jax.jit(jax.grad(total))(outputs_like(process, x_t))
    assert np.all(np.isfinite(gradient))
    assert np.all(np.abs(gradient).max((1, 2, 3)) > 0)


def test_training_times_are_times_of_the_process(case):
    process, _ = case
    for draw in (process.training_times, process.head_training_times):
        time = draw(jax.random.key(0), 500)
        assert time.shape == (500,) and time.dtype == jnp.float32
        assert len(np.unique(time)) > 10
        level = process.noise_level(time)
        assert np.all(np.isfinite(level)) and np.all(level >= 0)
        np.testing.assert_array_equal(time, draw(jax.random.key(0), 500))
        assert (time != draw(jax.random.key(1), 500)).any()


def test_published_times_are_times_of_the_process(case):
    process, _ = case
    for times in (process.probe_times, process.contrastive_times, process.test_times):
        assert len(times) > 0
        time = jnp.array([process.official_time(index) for index in times])
        assert np.all(np.isfinite(process.noise_level(time)))
    with pytest.raises(UserError) as raised:
        process.official_time(-1)
    assert "\n" not in str(raised.value)


def test_what_networks_and_heads_are_told_is_finite(case):
    process, time = case
    x_t = process.add_noise(*two_draws(time), time)
    images, told = process.network_inputs(x_t, time)
    assert images.shape == x_t.shape and told.shape == time.shape
    assert np.all(np.isfinite(images)) and np.all(np.isfinite(told))
    for condition in (process.head_condition, process.classifier_condition):
        assert condition(time).shape == time.shape
        assert np.all(np.isfinite(condition(time)))
    channels = x_t.shape[-1] * (2 if process.learned_variance else 1)
    estimate = process.estimate(outputs_like(process, x_t), x_t, time)
    assert estimate.shape == (*x_t.shape[:-1], channels)
    x0 = process.x0(outputs_like(process, x_t), x_t, time)
    np.testing.assert_array_equal(estimate[..., : x_t.shape[-1]], x0)


KINDS = [
    *PROCESSES.values(),
    *itertools.chain(*(s.values() for s in SAMPLERS.values())),
]


@pytest.mark.parametrize("cls", KINDS)
def test_fields_are_declared_with_bounds(cls):
    assert issubclass(cls, Process | Sampler) and cls.__dataclass_params__.frozen
    assert cls() == cls() and hash(cls()) == hash(cls())  # they can be static
    declared = fields.declared(cls)
    assert declared.keys() == {field.name for field in dataclasses.fields(cls)}
    for name, (kind, default, bounds) in declared.items():
        assert 3 < len(bounds.help) < 160, name
        fields.check(name, default, kind, bounds)
        if fields.without_none(kind) in (int, float):
            assert bounds.least is not None or bounds.above is not None, name
            assert bounds.most is not None or bounds.below is not None, name


def test_every_process_has_samplers():
    assert SAMPLERS.keys() == PROCESSES.keys()
    assert all(SAMPLERS.values())


@pytest.mark.parametrize("name", PROCESSES)
def test_the_name_cannot_be_taken_by_another(name):
    with pytest.raises(UserError, match=f"process '{name}' is .* already"):
        register_process(name, type("Other", (PROCESSES[name],), {}), SAMPLERS[name])


@pytest.mark.parametrize(
    "name, sampler",
    [(name, sampler) for name in SAMPLERS for sampler in SAMPLERS[name]],
)
def test_a_sampler_ends_at_the_image_that_the_denoiser_sees_everywhere(name, sampler):
    process, sampler = PROCESSES[name](), SAMPLERS[name][sampler]()
    sampler.check(process)
    wanted = jnp.linspace(-0.8, 0.8, 24).reshape(2, 2, 2, 3)

    def denoise(x_t, time):
        assert time.shape == (2,)
        output = perfect_output(process, wanted, x_t, time)
        return process.estimate(output, x_t, time)

    def step_noise(step):
        return jax.random.normal(
            jax.random.fold_in(jax.random.key(1), step), (2, 2, 2, 3)
        )

    noise = jax.random.normal(jax.random.key(0), wanted.shape)
    draw = jax.jit(lambda noise: sampler(denoise, process, noise, step_noise))
    np.testing.assert_allclose(draw(noise), wanted, atol=0.02)
    found, estimates = jax.jit(
        lambda noise: sampler.path(denoise, process, noise, step_noise)
    )(noise)
    np.testing.assert_allclose(found, draw(noise), atol=1e-5)
    evaluations = len(next(iter(sampler.table(process).values())))
    assert estimates.shape == (evaluations, *noise.shape)
    np.testing.assert_allclose(estimates[-1], wanted, atol=0.02)
    # Who does not ask for the estimates does not hold them.
    held = draw.lower(noise).compile().memory_analysis().temp_size_in_bytes
    assert held < estimates.nbytes / 2 or evaluations < 60
