"""Objectives in training: weights, averages, devices, accumulation, new ones."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import log, parallel
from ddae_jax.settings import schema
from ddae_jax.settings.fields import setting
from ddae_jax.train import objective_state, objectives
from ddae_jax.train.feed import Feed
from ddae_jax.train.objectives import base
from ddae_jax.train.objectives.base import Objective
from ddae_jax.train.objectives.contrastive import Contrastive
from ddae_jax.train.objectives.dispersive import Dispersive
from ddae_jax.train.step import Keys
from ddae_jax.train.window import single
from tests.tools import objective_runs
from tests.tools import objectives as tools
from tests.tools import runs as run_tools
from tests.tools.networks import leaf_at


@dataclasses.dataclass(frozen=True)
class Small(Objective):
    """The output is to be small."""

    on: bool = base.on_setting()
    weight: float = base.weight_setting(3.0)
    warmup: float = base.warmup_setting(0.0)
    power: int = setting(2, "of the output", least=1, most=4)

    def taps(self, denoiser):
        return ()

    def __call__(self, own, teacher, drawn, student):
        value = jnp.mean(jnp.abs(student.output) ** self.power)
        return value, {"size": single(value)}


def differences(ours, wanted):
    """Every array to rounding; the sum of what is logged, of its size."""
    assert ours.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_allclose(ours[name], leaf, 2e-4, 1e-5, err_msg=name)


def test_weights_rise_linearly_over_their_share_of_the_training():
    term = Dispersive(weight=0.5, warmup=0.2)
    weights = [float(term.weight_at(jnp.float32(p))) for p in (0, 0.05, 0.1, 0.2, 0.9)]
    np.testing.assert_allclose(weights, [0, 0.125, 0.25, 0.5, 0.5], rtol=1e-6)
    assert Dispersive(weight=0.5).weight_at(jnp.float32(0)) == 0.5


@pytest.mark.campaign
def test_a_weight_of_zero_trains_as_plain_training_does():
    batch, keys = tools.batch_of(), Keys.of(0)
    plain = tools.recipe_of(tools.DIT)
    silent = tools.recipe_of(tools.DIT, ("dispersive", Dispersive(on=True, weight=0)))
    found = []
    for recipe in (plain, silent):
        state, metrics = jax.jit(recipe)(tools.state_of(recipe, batch), batch, keys)
        found.append((state.params, state.ema, metrics["loss"], metrics.keys()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6),
        *(one[:3] for one in found),
    )
    assert set(found[1][3]) - set(found[0][3]) == {"total_loss", "dispersive/loss"}
    assert "total_loss" not in found[0][3]


@pytest.mark.slow
def test_the_average_follows_by_its_decay_and_is_filled_up_after_the_tap():
    term = Contrastive(on=True, tap="layer-1", hidden=4, features=3, teacher_decay=0.7)
    recipe = tools.recipe_of(tools.DIT, ("contrastive", term))
    state = tools.state_of(recipe, tools.batch_of())
    one = state.objectives["contrastive"]
    paths = set(one.teacher["denoiser"])
    tops = {path.split("/")[0] for path in paths}
    assert tops == {"patches", "positions", "time", "label", "block_0", "block_1"}
    whole = objective_state.teacher_of(one, state.params)["denoiser"]
    assert jax.tree.structure(whole) == jax.tree.structure(state.params)
    kernel = next(path for path in sorted(paths) if "block_1/mlp" in path)
    ours, theirs = (leaf_at(tree, kernel) for tree in (whole, state.params))
    np.testing.assert_array_equal(ours, one.teacher["denoiser"][kernel])
    assert not np.array_equal(ours, theirs)
    last = "block_3"
    jax.tree.map(np.testing.assert_array_equal, whole[last], state.params[last])
    nothing = jax.tree.map(jnp.zeros_like, one.params)
    new = objective_state.next_state(term, one, nothing, state.params, recipe.optimizer)
    wanted = 0.7 * np.asarray(ours) + 0.3 * np.asarray(theirs)
    np.testing.assert_allclose(new.teacher["denoiser"][kernel], wanted, rtol=1e-5)
    projector = jax.tree.map(
        lambda a, b: 0.7 * a + 0.3 * b,
        one.teacher["projector"],
        new.params["projector"],
    )
    tools.close(new.teacher["projector"], projector)


@pytest.mark.slow
def test_an_objective_draws_from_a_stream_of_its_own():
    batch, keys = tools.batch_of(), Keys.of(0)
    term = Contrastive(on=True, tap="layer-1")
    plain, _ = tools.recipe_of(tools.DIT).draw(jnp.int32(0), batch, keys)
    drawn = [
        tools.recipe_of(tools.DIT, *named).draw(jnp.int32(0), batch, keys)[0]
        for named in ((("one", term),), (("two", term), ("one", term)))
    ]
    for examples in drawn:
        for field in ("x0", "noise", "time"):
            ours, wanted = getattr(examples, field), getattr(plain, field)
            np.testing.assert_array_equal(ours, wanted)
    one, both = (examples.drawn for examples in drawn)
    np.testing.assert_array_equal(one["one"]["view"], both["one"]["view"])
    assert not np.array_equal(both["one"]["view"], both["two"]["view"])


@pytest.mark.slow
def test_eight_devices_train_as_one_does(tmp_path):
    path = tmp_path / "eight.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.objective_runs", str(path)],
        cwd=run_tools.ROOT,
        env=run_tools.environment(devices=8),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    with np.load(path) as file:
        eight = dict(file)
    assert eight.pop("devices") == 8
    one = objective_runs.trained(objective_runs.COMPARING)
    assert {"contrastive", "dispersive"} <= {name.split("/")[1] for name in one}
    differences(eight, one)


@pytest.mark.slow
def test_accumulated_parts_train_as_a_whole_batch_does():
    whole = objective_runs.trained(objective_runs.BY_IMAGE)
    parts = objective_runs.trained(objective_runs.BY_IMAGE, accumulate=4)
    differences(parts, whole)


@pytest.mark.parametrize("resident", [True, False])
def test_rows_come_with_their_images(resident):
    source = objective_runs.source()
    if not resident:
        source = dataclasses.replace(source, images=None, reader=source.read)
    beside = {"alignment/features": objective_runs.FEATURES}
    feed = Feed(source, 8, 3, parallel.make_mesh(), threads=0, beside=beside)
    batches = [feed.batch(step) for step in range(5)]
    for batch in batches:
        rows = objective_runs.FEATURES[np.asarray(batch.indices)]
        np.testing.assert_array_equal(batch.rows["alignment/features"], rows)
        images = source.read(np.asarray(batch.indices))
        np.testing.assert_array_equal(batch.images, images)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    return objectives.OBJECTIVES


@pytest.mark.slow
def test_an_objective_from_outside_is_a_section_of_the_config_and_trains(
    known, tmp_path
):
    objectives.register_objective("small", Small)
    objectives.register_objective("small", Small)
    config = schema.default("unet", "ddpm")
    assert config.objectives.small.power == 2
    flags = ("--config.objectives.small.on=True", "--config.objectives.small.power=1")
    run_tools.pretrain(tmp_path, 2, *flags)
    rows = log.read_metrics(tmp_path)
    for row in rows:
        wanted = row["loss"] + 3 * row["small/size"]
        np.testing.assert_allclose(row["total_loss"], wanted, rtol=1e-5)
    assert len(rows) == 2


def test_settings_of_an_objective_are_held_against_their_bounds():
    with pytest.raises(UserError, match=r"Small\.power: 5 is not 1 or more, at most 4"):
        Small(power=5)


class NoDataclass(Small):
    pass


class Abstract(Objective):
    pass


@dataclasses.dataclass(frozen=True)
class WithoutWarmup(Objective):
    on: bool = base.on_setting()
    weight: float = base.weight_setting(3.0)
    taps = __call__ = Small.taps


@dataclasses.dataclass(frozen=True)
class Other(Small):
    pass


@pytest.mark.parametrize(
    "name, objective, message",
    [
        ("x", 3, "3 is no subclass of Objective"),
        ("x", dict, "is no subclass of Objective"),
        ("x", Abstract, "Abstract lacks __call__, taps"),
        ("x", NoDataclass, "NoDataclass is no dataclass with on, warmup, weight"),
        ("x", WithoutWarmup, "WithoutWarmup is no dataclass with warmup"),
        ("dispersive", Other, "'dispersive' is Dispersive already"),
    ],
)
def test_what_is_no_whole_objective_is_refused(known, name, objective, message):
    with pytest.raises(UserError, match=message) as error:
        objectives.register_objective(name, objective)
    assert "\n" not in str(error.value)
    assert "x" not in known and known["dispersive"] is Dispersive
