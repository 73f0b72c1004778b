"""The table of where the time of training goes."""

import json

import pytest

from ddae_jax.errors import UserError
from ddae_jax.runtime import trace
from ddae_jax.train import profile
from tests.tools import runs as run_tools


def test_time_is_shared_by_what_runs_together():
    runs = [("a", 0, 4e9), ("b", 2e9, 6e9), ("a", 8e9, 9e9)]
    assert trace.seconds_by(runs) == {"a": 4.0, "b": 3.0}


@pytest.mark.parametrize(
    ("scope", "kind"),
    [
        ("jit(_run)/transpose(jvp(UNet))/down_1/conv1/conv_general_dilated", "conv"),
        ("jit(_run)/jvp(UNet)/middle_attention/projection/dot_general", "attention"),
        ("jit(_run)/jvp(UNet)/middle_1/norm1/reduce_sum", "normalisation"),
        ("jit(_run)/jvp(DiT)/block_3/mlp/linear1/dot_general", "linear"),
        ("jit(_run)/optimiser/mul", "optimiser"),
        ("jit(_run)/threefry2x32", "random numbers"),
        ("jit(_run)/jvp(UNet)/final/jit(silu)/div", "activation"),
        ("jit(_run)/add", "other"),
    ],
)
def test_kinds_of_layers(scope, kind):
    assert profile.kind_of(scope).startswith(kind)


@pytest.mark.slow
def test_a_run_tells_where_its_time_went(tmp_path):
    run_tools.pretrain(tmp_path, 6, "--config.profile.steps=2")
    found = json.loads((tmp_path / "profile.json").read_text())
    shares = {row["name"]: row["share"] for row in found["kinds"]}
    assert found["steps"] == 2
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares[kind] for kind in ("convolution", "optimiser", "linear")) > 0
    assert shares["nothing"] + shares.get("other", 0) < 0.9
    assert "convolution" in (tmp_path / "profile.txt").read_text()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_several_programs_a_step_are_not_profiled(tmp_path):
    with pytest.raises(UserError, match=r"profile\.steps"):
        run_tools.pretrain(
            tmp_path, 6, "--config.profile.steps=2", "--config.train.accumulate=2"
        )
