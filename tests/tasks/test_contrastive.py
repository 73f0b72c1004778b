"""The task contrastive, by the command line, over several checkpoints."""

import json

import numpy as np
import pytest

import ddae_jax
from ddae_jax import main
from ddae_jax.data import sources
from ddae_jax.diffusion import PROCESSES
from ddae_jax.errors import UserError
from tests.tools import runs as run_tools


@pytest.fixture(scope="module")
def workdir(pretrained_copy):
    workdir = pretrained_copy
    main.main(
        [
            "main",
            *run_tools.TINY,
            f"--workdir={workdir}",
            "--task=contrastive",
            "--config.contrastive.noise_levels=(0.05,0.5)",
        ]
    )
    return workdir


def test_every_tap_level_and_checkpoint_has_finite_values(workdir):
    found = json.loads((workdir / "contrastive.json").read_text())
    assert found["steps"] == [2, 4] and found["step"] == 4
    cells = {(c["step"], c["tap"], c["given"]): c for c in found["cells"]}
    assert len(cells) == len(found["cells"]) == 2 * 2 * 2
    for cell in cells.values():
        assert 0 <= cell["alignment"] <= 4 and -8 <= cell["uniformity"] <= 0
    # More noise drives the two views of an image apart.
    for tap in ("out_1", "out_2"):
        near, far = (cells[4, tap, level]["alignment"] for level in (0.05, 0.5))
        assert near < far
    assert found["protocol"]["batch_size"] == 16
    assert (workdir / "contrastive.png").is_file()
    assert "uniformity" in (workdir / "contrastive.txt").read_text()


def test_uniformity_is_that_of_the_features(workdir):
    found = json.loads((workdir / "contrastive.json").read_text())
    images = sources.load("digits", "train").images[:400]
    features = ddae_jax.load(workdir).features(images, "out_2", 0.05)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.square(features[:, None] - features).sum(-1)
    pairs = distances[np.triu_indices(len(features), 1)]
    expected = np.log(np.mean(np.exp(-2 * pairs)))
    (cell,) = [
        c
        for c in found["cells"]
        if (c["step"], c["tap"], c["given"]) == (4, "out_2", 0.05)
    ]
    # Other images, of batches of 16: equal up to the sample's spread.
    assert cell["uniformity"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("steps=(3,)", r"config.contrastive.steps: no 3 in .*known: 2, 4"),
        ("count=1", "config.contrastive.count: 1 image has no pairs"),
        ("taps=out_9", r"config.contrastive.taps: unknown 'out_9'.*out_2"),
        ("times=(0,)", "config.contrastive.times"),
    ],
)
def test_mistakes_are_named(workdir, flag, message):
    # All of the config, because a workdir remembers the flags of the last command.
    flags = [
        *run_tools.TINY,
        f"--workdir={workdir}",
        "--task=contrastive",
        f"--config.contrastive.{flag}",
    ]
    with pytest.raises(UserError, match=message):
        main.run(["main", *flags])


@pytest.mark.parametrize(
    ("process", "times"),
    [("ddpm", (11,)), ("edm", (4,)), ("flow", (0.95,)), ("dit", (121,))],
)
def test_every_process_has_its_own_time(process, times):
    """EDM's is an index of its own table: sigma is small, as of DDPM's t = 11."""
    assert PROCESSES[process]().contrastive_times == times
