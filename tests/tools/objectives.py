"""A training step with one objective, against plain code, for tests of objectives."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ddae_jax.denoiser import Denoiser
from ddae_jax.diffusion.edm import EDM
from ddae_jax.models.dit import DiT
from ddae_jax.models.unet import UNet
from ddae_jax.train import objective_state, optimizers
from ddae_jax.train import state as train_state
from ddae_jax.train.feed import Batch
from ddae_jax.train.objectives.base import Examples, Objective, Pass, Setup
from ddae_jax.train.step import Keys, TrainStep
from tests.tools.networks import random_params, taps_of

SHAPE = (8, 8, 3)
COUNT = 8
STEPS = 4
RATE, EPSILON, EMA = 0.01, 1e-2, 0.9
DIT = DiT(
    hidden_size=32, depth=4, heads=2, num_classes=0, learned_variance=False, mlp_ratio=1
)
UNET = UNet(
    channels=32,
    channel_multipliers=(1, 2),
    attention=(False, False),
    blocks=0,
    dropout=0.0,
    augment_channels=9,
)


def denoiser_of(network) -> Denoiser:
    """The network under EDM's process."""
    return Denoiser(network, EDM())


def recipe_of(network, *named: tuple[str, Objective], **options) -> TrainStep:
    """Adam's epsilon is large: the first step would be the sign of the gradient."""
    return TrainStep(
        denoiser_of(network),
        optimizers.Adam(RATE, epsilon=EPSILON),
        ema_cap=EMA,
        ema_warmup=False,
        objectives=named,
        steps=STEPS,
        **options,
    )


def batch_of(rows: dict[str, np.ndarray] | None = None, count: int = COUNT) -> Batch:
    """Random images, and rows beside them."""
    images = np.random.default_rng(1).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    numbers = jnp.arange(count)
    rows = {name: jnp.asarray(array) for name, array in (rows or {}).items()}
    return Batch(jnp.asarray(images), numbers * 0, numbers, numbers, rows)


def changed(objective: Objective, **changes) -> Objective:
    """The objective with other settings."""
    return dataclasses.replace(objective, **changes)


def setup_of(network, source, **changes) -> Setup:
    """What an objective is checked with."""
    denoiser = denoiser_of(network)
    setup = Setup(denoiser, source, False, 0.1, 0.0, lambda folder: folder)
    return dataclasses.replace(setup, **changes)


def state_of(recipe: TrainStep, batch: Batch, step: int = 1) -> train_state.TrainState:
    """At random parameters, some of the training done."""
    shape = batch.images.shape[1:]
    params = random_params(recipe.denoiser.network, shape)
    params = jax.tree.map(jnp.asarray, params)
    state = train_state.first_state(params, recipe.optimizer)
    rows = tuple(
        (name, jax.ShapeDtypeStruct(row.shape[1:], row.dtype))
        for name, row in batch.rows.items()
    )
    objectives = objective_state.first_states(
        jax.random.key(3),
        params,
        recipe.objectives,
        recipe.denoiser,
        recipe.optimizer,
        shape,
        rows,
    )
    # Averages that differ from what they follow, heads without zeros.
    away = jax.tree.map(lambda leaf: 1.1 * leaf, (state.ema, objectives))
    heads = {
        name: dataclasses.replace(
            one,
            params=shaken(objectives[name].params),
            opt_state=objectives[name].opt_state,
        )
        for name, one in away[1].items()
    }
    return state.replace(step=jnp.int32(step), ema=away[0], objectives=heads)


def shaken(tree):
    """The tree with small normal numbers added."""
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32),
        tree,
    )


def pass_of(recipe: TrainStep, state, examples: Examples, taps: dict) -> Pass:
    """A forward pass that had these taps."""
    nothing = jnp.zeros(examples.x0.shape)
    return Pass(
        state.params,
        state.ema,
        examples,
        nothing,
        nothing,
        taps,
        None,
        jnp.float32(0.5),
        recipe.denoiser,
    )


# Plain code: EDM by the equations of its paper, Adam by its own.


def forward(network, params, x0, noise, sigma, augment_labels=None):
    """(loss of every image, taps) of EDM with sigma_data = 0.5."""
    s, data = sigma[:, None, None, None], 0.5
    x_t = x0 + s * noise
    scaled = x_t / jnp.sqrt(s**2 + data**2)
    output, taps = taps_of(
        network, params, scaled, jnp.log(sigma) / 4, None, augment_labels
    )
    skip, out = data**2 / (s**2 + data**2), s * data / jnp.sqrt(s**2 + data**2)
    estimate = skip * x_t + out * output
    error = ((s**2 + data**2) / (s * data) ** 2 * (estimate - x0) ** 2).mean((1, 2, 3))
    return error, taps


def mlp(params: dict, x, batch_norm: bool):
    """Projector or predictor."""
    count = sum(name.startswith("linear") for name in params)
    for number in range(count):
        layer = params[f"linear{number}"]
        x, last = x @ layer["kernel"], number == count - 1
        if not batch_norm:
            x = x + layer["bias"]
            x = x if last else x / (1 + jnp.exp(-x))
            continue
        centred = x - x.mean(0)
        x = centred / jnp.sqrt((centred**2).mean(0) + 1e-5)
        if not last:
            norm = params[f"norm{number}"]
            x = jnp.maximum(x * norm["scale"] + norm["bias"], 0)
    return x


def bilinear(maps, size: tuple[int, int]):
    """Maps at another size, each new position a sum of the old ones.

    The weights fall linearly to 0 over one position, or over what a new one covers.
    """

    def weights(old, new):
        found, scale = np.zeros((new, old), np.float32), max(old / new, 1)
        for i in range(new):
            centre = (i + 0.5) * old / new - 0.5
            for j in range(old):
                found[i, j] = max(0, 1 - abs(centre - j) / scale)
            found[i] /= found[i].sum()
        return found

    rows, columns = map(weights, maps.shape[1:3], size)
    return jnp.einsum("ir,jc,brcf->bijf", rows, columns, maps)


def adam(params, gradient, moments, count: int):
    """Returns parameters and moments after a step with clipping at norm 1."""
    gradient = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), gradient)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g / max(norm, 1), gradient)
    if moments is None:
        moments = 2 * (jax.tree.map(np.zeros_like, gradient),)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, moments[1], gradient)

    def moved(p, m, v):
        m, v = m / (1 - 0.9**count), v / (1 - 0.999**count)
        return np.float32(p - RATE * m / (np.sqrt(v) + EPSILON))

    return jax.tree.map(moved, params, mean, square), (mean, square)


def mixed(average, new, decay: float):
    """decay average + (1 - decay) new."""
    return jax.tree.map(lambda a, n: decay * a + (1 - decay) * n, average, new)


def close(ours: Any, plain: Any, tolerance: float = 1e-5) -> None:
    """Leaf by leaf."""
    ours, plain = (flatten_dict({"": tree}, sep="/") for tree in (ours, plain))
    assert ours.keys() == plain.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, plain[path], tolerance, tolerance, str(path))


def check_two_steps(
    recipe: TrainStep, batch: Batch, term: Callable, decay: float = 0.0
) -> dict[str, float]:
    """Two steps of `recipe`, which has one objective, against plain code.

    Args:
      term: (own, teacher, examples, drawn, params, ema, taps) -> (the objective's term,
        its metrics).
      decay: of the teacher.

    Returns the metrics of the second step.
    """
    ((name, objective),) = recipe.objectives
    network, keys = recipe.denoiser.network, Keys.of(0)
    state = state_of(recipe, batch)
    one = state.objectives[name]
    params, ema, own, teacher = state.params, state.ema, one.params, one.teacher
    moments = own_moments = None

    def total(params, own, ema, teacher, examples, drawn, weight):
        losses, taps = forward(
            network,
            params,
            examples.x0,
            examples.noise,
            examples.time,
            examples.augment_labels,
        )
        rest = flatten_dict(params, sep="/") | teacher.get("denoiser", {})
        whole = {**teacher, "denoiser": unflatten_dict(rest, sep="/")}
        whole, ema = jax.lax.stop_gradient((whole, ema))
        value, found = term(own, whole, examples, drawn, params, ema, taps)
        found = {f"{name}/{key}": value for key, value in found.items()}
        loss = losses.mean() + weight * value
        return loss, {"loss": losses.mean(), "total_loss": loss, **found}

    plain = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    ours = jax.jit(recipe)
    draw = jax.jit(recipe.draw)
    for number in (1, 2):
        examples, _ = draw(state.step, batch, keys)
        assert examples.augment_labels is None or bool(recipe.augment_probability)
        share = number / STEPS
        weight = objective.weight
        if objective.warmup:
            weight *= min(1, share / objective.warmup)
        (gradient, own_gradient), wanted = plain(
            params, own, ema, teacher, examples, examples.drawn[name], weight
        )
        before = state
        state, metrics = ours(state, batch, keys)
        params, moments = adam(params, gradient, moments, number)
        if own:
            own, own_moments = adam(own, own_gradient, own_moments, number)
        ema = mixed(ema, params, EMA)
        if teacher:
            flat = flatten_dict(params, sep="/")
            current = {part: own[part] for part in objective.averaged}
            current["denoiser"] = {path: flat[path] for path in teacher["denoiser"]}
            teacher = mixed(teacher, current, decay)
        close(state.params, params)
        close(state.ema, ema)
        close(state.objectives[name].params, own)
        close(state.objectives[name].teacher, teacher)
        for key, value in wanted.items():
            value = float(value)
            found = float(metrics[key].compute())
            np.testing.assert_allclose(found, value, 1e-4, 1e-6, err_msg=key)
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()),
            state.objectives[name].params,
            before.objectives[name].params,
        )
        assert all(value > 1e-4 for value in jax.tree.leaves(moved))
    own_metrics = {key for key in metrics if key.startswith(f"{name}/")}
    assert own_metrics == {key for key in wanted if key.startswith(f"{name}/")}
    return {key: float(one.compute()) for key, one in metrics.items()}
