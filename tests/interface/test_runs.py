"""`ddae_jax.pretrain` and `ddae_jax.run`: a workdir like the command line's."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddae_jax
from ddae_jax.data import source
from ddae_jax.errors import UserError

pytestmark = pytest.mark.slow

CONFIG = "digits:test"
NAMES = np.array(["cat", "dog"])


def colours(count, seed):
    """Images of two classes, bright and dark, and the names of their classes."""
    random = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    noise = random.integers(0, 64, (count, 8, 8, 3))
    return (noise + 150 * classes[:, None, None, None]).astype(np.uint8), NAMES[classes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    images, labels = colours(48, 0)
    workdir = tmp_path_factory.mktemp("python") / "run"
    return ddae_jax.pretrain(images, labels, config=CONFIG, steps=3, workdir=workdir)


def test_arrays_are_trained_on_and_the_workdir_is_the_command_lines(trained):
    workdir = trained.workdir
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["name"] == "arrays" and config["train"]["steps"] == 3
    assert config["network"]["image_channels"] == 3  # of the images
    data = json.loads((workdir / "data.json").read_text())
    assert data["class_names"] == ["cat", "dog"] and data["train_images"] == 48
    (line,) = (workdir / "commands.txt").read_text().splitlines()
    assert line.startswith(f"python -m ddae_jax.main --config={CONFIG} --workdir=")
    np.testing.assert_array_equal(ddae_jax.load(workdir).sample(2), trained.sample(2))


def test_the_command_line_goes_on_with_it_bit_for_bit(trained, tmp_path):
    images, labels = colours(48, 0)
    whole = ddae_jax.pretrain(
        images, labels, config=CONFIG, steps=5, workdir=tmp_path / "whole"
    )
    ddae_jax.pretrain(images, labels, config=CONFIG, steps=3, workdir=tmp_path / "part")
    words = [f"--workdir={tmp_path / 'part'}", "--task=pretrain"]
    subprocess.run(
        [sys.executable, "-m", "ddae_jax.main", *words, "--config.train.steps=5"],
        check=True,
    )
    again = ddae_jax.load(tmp_path / "part")
    assert again.trained.step == whole.trained.step == 5
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_it_goes_on_and_other_images_are_refused(trained):
    images, labels = colours(48, 0)
    workdir = trained.workdir
    more = ddae_jax.pretrain(images, labels, config=CONFIG, steps=4, workdir=workdir)
    assert more.trained.step == 4
    with pytest.raises(UserError, match="trained on other images"):
        ddae_jax.pretrain(images[::-1], labels, config=CONFIG, steps=5, workdir=workdir)
    assert ddae_jax.load(workdir).trained.step == 4


def test_a_probe_of_arrays_and_what_it_shows(trained):
    before = sorted(path.name for path in trained.workdir.iterdir())
    result = trained.probe(
        train=colours(40, 1),
        test=colours(20, 2),
        classifier="logistic",
        times=(1,),
        batch_size=8,
    )
    assert sorted(path.name for path in trained.workdir.iterdir()) == before
    assert result.accuracy == result.chosen["test"] > 0.9  # bright against dark
    assert result.tap == "+".join(trained.taps)  # this config joins them
    assert result.plot().axes and f"{100 * result.accuracy:.2f}" in repr(result)
    assert result._repr_html_().startswith("<pre>")
    assert result.report["class_count"] == 2


def test_the_probe_of_the_workdir_names_the_default_features(tmp_path):
    written = ddae_jax.run(
        ("pretrain", "probe"),
        config=CONFIG,
        workdir=tmp_path,
        settings={"train.steps": 2, "probe.concat": "", "probe.seeds": 1},
    )
    chosen = written["probe"]["chosen"]
    model = ddae_jax.load(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    default = model.features(images)
    named = model.features(images, chosen["tap"], chosen["noise_level"])
    np.testing.assert_array_equal(default, named)
    assert model.probe(output="probe_again").chosen["tap"]
    assert (tmp_path / "probe_again.json").exists()


def test_several_taps_joined_and_every_position(trained):
    images, _ = colours(6, 3)
    taps = trained.taps[:2]
    both = trained.features(images, taps, 0.1)
    assert tuple(both) == taps
    joined = trained.features(images, "+".join(taps), 0.1)
    np.testing.assert_array_equal(joined, np.concatenate(list(both.values()), 1))
    whole = trained.features(images, taps[0], 0.1, pooled=False)
    np.testing.assert_allclose(whole.mean(1), both[taps[0]], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="pooled=True"):
        trained.features(images, "+".join(taps), 0.1, pooled=False)


def test_jax_arrays_give_jax_arrays_with_gradients(trained):
    images, _ = colours(4, 4)
    tap = trained.taps[1]
    x0 = jnp.asarray(images, jnp.float32) / 127.5 - 1
    ours = trained.features(x0, tap, 0.1)
    assert isinstance(ours, jax.Array)
    given = trained.features(images, tap, 0.1)
    np.testing.assert_allclose(ours, given, rtol=1e-4, atol=1e-5)

    def total(x0):
        return trained.features(x0, tap, 0.1).sum()

    gradient = jax.jit(jax.grad(total))(x0)
    direction = np.random.default_rng(5).normal(size=x0.shape).astype(np.float32)
    step = 1e-2
    change = (total(x0 + step * direction) - total(x0 - step * direction)) / (2 * step)
    np.testing.assert_allclose(change, (gradient * direction).sum(), rtol=2e-2)
    with pytest.raises(UserError, match="the model takes"):
        trained.features(x0[:, :4], tap, 0.1)


def test_apply_taps_in_the_callers_own_program(trained):
    images, _ = colours(4, 6)
    x0 = jnp.asarray(images, jnp.float32) / 127.5 - 1
    noise = jax.random.normal(jax.random.key(0), x0.shape)
    tap = trained.taps[0]

    @jax.jit
    def loss(params):
        return (trained.apply_taps(params, x0, noise, 0.1, (tap,))[tap] ** 2).mean()

    value, gradient = jax.value_and_grad(loss)(trained.params)
    assert value > 0
    norms = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)]
    assert max(norms) > 0 and min(norms) == 0  # nothing after the tap plays a role


def test_a_source_in_memory_is_as_good_as_arrays(trained, tmp_path):
    images, labels = colours(48, 0)
    classes = (labels == "dog").astype(np.int32)
    given = source.from_arrays("mine", "train", images, classes, ("cat", "dog"))
    model = ddae_jax.pretrain(given, config=CONFIG, steps=1, workdir=tmp_path / "run")
    data = json.loads((model.workdir / "data.json").read_text())
    assert data["class_names"] == ["cat", "dog"]
    streamed = source.from_arrays(
        "mine", "train", images, classes, ("cat", "dog"), resident_bytes=0
    )
    with pytest.raises(UserError, match="register_source"):
        ddae_jax.pretrain(streamed, config=CONFIG, workdir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


GREY = np.zeros((4, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"images": GREY / 255.0}, "type float64; images are uint8"),
        ({"images": GREY[..., 0]}, r"shape \(4, 8, 8\)"),
        (
            {"images": GREY, "labels": [0, 1]},
            r"train: labels of shape \(2,\) for 4 images",
        ),
        ({"images": GREY, "labels": [0.5] * 4}, "labels: type float64"),
        ({"labels": [0]}, "labels, test: give the images"),
        ({"settings": {"train.step": 3}}, "config.train.step: field"),
        ({"settings": {"train.steps": object()}}, "is a object"),
        ({"config": "digit"}, "Did you mean .digits"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(
    tmp_path, arguments, message
):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=message) as error:
        ddae_jax.pretrain(**({"config": CONFIG, "workdir": workdir} | arguments))
    assert "\n" not in str(error.value)
    assert not workdir.exists()


def test_probes_that_cannot_be(trained):
    train, test = colours(8, 1), colours(8, 2)
    with pytest.raises(UserError, match="both train and test"):
        trained.probe(train=train)
    with pytest.raises(UserError, match="probe: field"):
        trained.probe(train=train, test=test, clasifier="knn")
    with pytest.raises(UserError, match=r"give \(images, labels\)"):
        trained.probe(train=train[0], test=test)
    with pytest.raises(UserError, match=r"labels of shape \(7,\) for 8 images"):
        trained.probe(train=(train[0], train[1][:7]), test=test)
    with pytest.raises(UserError, match="name a config, or the workdir"):
        ddae_jax.run("probe")
