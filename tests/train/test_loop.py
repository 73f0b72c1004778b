"""The training loop with the smallest trainer there is."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average
from jax.sharding import SingleDeviceSharding

from ddae_jax.runtime import log
from ddae_jax.train import loop
from ddae_jax.train.plan import Every, Hook, Measured, Plan


class Unread:
    """A metric's leaf, which notes at which step the loop reads it."""

    def __init__(self, value, trainer):
        self.value, self.trainer = value, trainer

    def __array__(self, dtype=None, copy=None):
        self.trainer.read.add(self.trainer.done)
        return np.array(self.value, dtype)


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

    def input_seconds(self):
        return 0.0

    def flops(self):
        return None


def test_steps_are_counted_and_a_second_call_finds_them_done(tmp_path):
    plan = Plan("count", steps=5, batch_size=1, steps_per_dispatch=2)
    assert int(loop.fit(tmp_path, Counting(), plan)["count"]) == 5
    assert int(loop.fit(tmp_path, Counting(), plan)["count"]) == 5


def unread(trainer, dispatch):
    """What `dispatch` does, with metrics that note when they are read."""
    trainer.read, trainer.done = set(), 0

    def noting(state, step, count):
        state, _ = dispatch(state, step, count)
        trainer.done = step + count
        total, number = Unread(np.ones(count), trainer), Unread(count * [1], trainer)
        return state, {"loss": Average(total=total, count=number)}

    return noting


def test_metrics_are_read_at_events_alone(tmp_path, monkeypatch):
    trainer = Counting()
    monkeypatch.setattr(trainer, "dispatch", unread(trainer, trainer.dispatch))
    plan = Plan("count", steps=12, batch_size=1, log=Every(5), checkpoint=Every(6))
    loop.fit(tmp_path, trainer, plan, (Hook(Every(8), lambda *_: Measured()),))
    assert trainer.read == {5, 6, 8, 10, 12}


def test_metrics_of_a_training_that_is_never_logged_do_not_pile_up(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "_MOST_UNREAD", 4)
    trainer = Counting()
    monkeypatch.setattr(trainer, "dispatch", unread(trainer, trainer.dispatch))
    loop.fit(tmp_path, trainer, Plan("count", steps=12, batch_size=1))
    assert trainer.read == {5, 9, 12}


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


class Counted(Counting):
    """Knows its FLOPs after the first dispatch, and stops in the one from `step`."""

    def __init__(self, stop=None, step=None):
        self.stop, self.step, self.dispatched = stop, step, False

    def dispatch(self, state, step, count):
        if step == self.step:
            self.stop()
        self.dispatched = True
        return super().dispatch(state, step, count)

    def flops(self):
        return 5.0 if self.dispatched else None


def killed():
    raise KeyboardInterrupt


def signalled():
    os.kill(os.getpid(), signal.SIGTERM)


def flops_of_rows(folder):
    rows = log.read_metrics(folder)
    return [(row["step"], row.get("flops_per_step")) for row in rows]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("stop", [killed, signalled])
@pytest.mark.parametrize("step", [1, 3])
def test_flops_are_in_the_same_rows_after_a_stop(tmp_path, every, stop, step):
    plan = Plan("count", 6, 1, log=Every(every), checkpoint=Every(1))
    hooks = (Hook(Every(3), lambda *_: Measured({"mine": 1.0})),)
    loop.fit(tmp_path / "whole", Counted(), plan, hooks)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        loop.fit(tmp_path / "stopped", Counted(stop, step), plan, hooks)
    loop.fit(tmp_path / "stopped", Counted(), plan, hooks)
    found = flops_of_rows(tmp_path / "whole")
    assert found[-1] == (6, 5.0)
    assert flops_of_rows(tmp_path / "stopped") == found
