"""The training loop with the smallest trainer there is."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest
from clu.metrics import Average
from jax.sharding import SingleDeviceSharding

from ddae_jax.train import loop
from ddae_jax.train.plan import Every, Hook, Measured, Plan


class Counting:
    """Counts its steps; the loss is 1."""

    def create(self):
        return {"count": jnp.int32(0)}

    def abstract(self):
        place = SingleDeviceSharding(jax.devices()[0])
        return {"count": jax.ShapeDtypeStruct((), jnp.int32, sharding=place)}

    def dispatch(self, state, step, count):
        loss = Average(total=jnp.ones(count), count=jnp.ones(count, jnp.int32))
        return {"count": state["count"] + count}, {"loss": loss}

    def learning_rate(self, step):
        return 0.1

    def flops(self):
        return None


def test_steps_are_counted_and_a_second_call_finds_them_done(tmp_path):
    plan = Plan("count", steps=5, batch_size=1, steps_per_dispatch=2)
    assert int(loop.fit(tmp_path, Counting(), plan)["count"]) == 5
    assert int(loop.fit(tmp_path, Counting(), plan)["count"]) == 5


@pytest.mark.parametrize(
    ("number", "status"), [("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)]
)
def test_a_signal_after_the_last_step_is_not_lost(tmp_path, number, status):
    def send(state, step):
        os.kill(os.getpid(), signal.Signals[number])
        return Measured()

    plan = Plan("count", steps=2, batch_size=1)
    with pytest.raises(SystemExit) as stopped:
        loop.fit(tmp_path, Counting(), plan, (Hook(Every(2), send),))
    assert stopped.value.code == status
    assert int(loop.fit(tmp_path, Counting(), plan)["count"]) == 2
