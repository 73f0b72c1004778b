"""Reading a checkpoint: one part of it, and one from before a field was there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import checkpoint, parallel
from ddae_jax.train.state import TrainState


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("checkpoint")
    params = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(2)}
    ema = jax.tree.map(lambda leaf: leaf + 1, params)
    state = TrainState(jnp.int32(3), params, ema, optax.adam(1e-3).init(params))
    with checkpoint.manager(workdir, checkpoint.Keep()) as checkpoints:
        checkpoint.save(checkpoints, 3, state, 1.0)
        checkpoints.wait_until_finished()
    return workdir, state


def read(workdir, **parts):
    shapes = jax.eval_shape(lambda: parts)
    everywhere = parallel.replicated(parallel.make_mesh())
    shardings = jax.tree.map(lambda _: everywhere, shapes)
    with checkpoint.manager(workdir) as checkpoints:
        return checkpoint.restore_part(checkpoints, 3, shapes, shardings)


def test_only_what_is_asked_for_is_read(saved):
    workdir, state = saved
    found = read(workdir, ema=state.ema)
    assert found.keys() == {"ema"}
    jax.tree.map(np.testing.assert_array_equal, found["ema"], state.ema)


def test_a_checkpoint_of_before_a_field_that_is_empty_is_read(saved, tmp_path):
    """TrainState.objectives was added later."""
    _, state = saved
    fields = ("step", "params", "ema", "opt_state")
    old = {name: getattr(state, name) for name in fields}
    shapes = jax.eval_shape(lambda: state)
    everywhere = parallel.replicated(parallel.make_mesh())
    shardings = jax.tree.map(lambda _: everywhere, shapes)
    with checkpoint.manager(tmp_path, checkpoint.Keep()) as checkpoints:
        checkpoint.save(checkpoints, 3, old, 1.0)
        checkpoints.wait_until_finished()
        found = checkpoint.restore(checkpoints, 3, shapes, shardings)
        assert isinstance(found, TrainState) and found.objectives == {}
        jax.tree.map(np.testing.assert_array_equal, found, state)
        new = shapes.replace(objectives={"dispersive": {"w": shapes.step}})
        shardings = jax.tree.map(lambda _: everywhere, new)
        with pytest.raises(UserError, match="cannot be read"):  # it is not empty
            checkpoint.restore(checkpoints, 3, new, shardings)


def test_what_does_not_fit_is_refused(saved):
    workdir, state = saved
    for wrong in (
        state.ema | {"b": jnp.ones(3)},
        state.ema | {"c": jnp.ones(2)},
    ):
        with pytest.raises(UserError, match="cannot be read") as error:
            read(workdir, ema=wrong)
        assert "\n" not in str(error.value)
