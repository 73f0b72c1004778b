"""config.train.start_from: a run goes on with another run's weights."""

import re
import shutil

import jax
import numpy as np
import pytest

import ddae_jax
from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.tasks.pretrain.start import Start
from ddae_jax.train import loop
from tests.tools import additions, golden_values
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools
from tests.tools.additions import FROZEN, SELF_CONDITIONED

EMA = "['ema']"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return additions.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, images):
    """A run without self-conditioning."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    additions.pretrain(workdir, 2, images)
    return workdir


@pytest.fixture(scope="module")
def continued(tmp_path_factory, images, plain):
    """The same with self-conditioning: one step, which leaves the averages alone.

    Returns:
      its workdir, and a folder as it was that the first command names.
    """
    root = tmp_path_factory.mktemp("continued")
    shutil.copytree(plain, root / "old")
    start = f"--config.train.start_from={root / 'old'}"
    additions.pretrain(root / "run", 1, images, start, SELF_CONDITIONED, *FROZEN)
    return root / "run", root / "old"


def averages(workdir, step):
    state = run_tools.saved_state(workdir, step)
    return {name: array for name, array in state.items() if name.startswith(EMA)}


def assert_carried_over(old, new):
    """Old averages are there bitwise; returns the names of the others."""
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array, err_msg=name)
    return sorted(new.keys() - old.keys())


@pytest.mark.slow
def test_averages_are_carried_over_and_what_is_new_is_listed(continued, plain):
    workdir, folder = continued
    new = assert_carried_over(averages(plain, 2), averages(workdir, 1))
    facts = additions.read(workdir, "data.json")["started_from"]
    assert (facts["folder"], facts["step"]) == (str(folder), 2)
    listed = [f"{EMA}{''.join(f'[{p!r}]' for p in n.split('/'))}" for n in facts["new"]]
    assert sorted(listed) == new
    assert len(new) == 4 and all("self_condition" in name for name in new)


def test_new_parameters_start_at_their_initial_values(continued, images, tmp_path):
    additions.pretrain(tmp_path / "fresh", 1, images, SELF_CONDITIONED, *FROZEN)
    fresh, ours = averages(tmp_path / "fresh", 1), averages(continued[0], 1)
    for name in ours:
        if "self_condition" in name:
            np.testing.assert_array_equal(ours[name], fresh[name], err_msg=name)


def test_the_weights_are_not_kept_beside_those_being_trained():
    begin = Start("old", 1, {"a/known": jax.numpy.ones(3)}, ("a/new",))
    drawn = {"a": {"known": jax.numpy.zeros(3), "new": jax.numpy.zeros(2)}}
    found = begin(drawn)["a"]
    assert found["known"].sum() == 3 and found["new"].sum() == 0
    assert not begin.params and begin.facts["new"] == ["a/new"]


def test_the_first_outputs_are_those_of_the_old_model(continued, plain):
    noisy = np.random.default_rng(1).normal(size=(3, 8, 8, 1))
    old, new = (
        ddae_jax.load(workdir).denoise(noisy, 0.5) for workdir in (plain, continued[0])
    )
    np.testing.assert_array_equal(new, old)
    assert new.std() > 0.1


def test_a_second_command_goes_on_without_the_folder(
    continued, images, tmp_path, caplog
):
    workdir, folder = continued
    copy = shutil.copytree(workdir, tmp_path / "run")
    moved = folder.rename(tmp_path / "gone")
    start = f"--config.train.start_from={folder}"
    try:
        with caplog.at_level("INFO"):
            additions.pretrain(copy, 2, images, start, SELF_CONDITIONED)
    finally:
        moved.rename(folder)
    assert "pretrain: resuming from step 1" in caplog.text
    facts = additions.read(copy, "data.json")["started_from"]
    assert facts == additions.read(workdir, "data.json")["started_from"]


@pytest.mark.slow
def test_an_exported_folder_and_the_log(plain, images, tmp_path, caplog):
    hub = tmp_path / "hub"
    main.run(
        ["main", f"--workdir={plain}", "--task=export", f"--config.export.path={hub}"]
    )
    with caplog.at_level("INFO"):
        start = f"--config.train.start_from={hub}"
        additions.pretrain(tmp_path / "run", 1, images, start, *FROZEN)
    assert assert_carried_over(averages(plain, 2), averages(tmp_path / "run", 1)) == []
    line = f"start_from: EMA weights of step 2 of {hub}; new: nothing"
    assert line in caplog.messages


def test_a_run_that_never_saved_forgets_what_it_started_from(
    plain, images, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "fit", killed)
        start = f"--config.train.start_from={plain}"
        additions.pretrain(tmp_path, 1, images, start)
    assert "started_from" in additions.read(tmp_path, "data.json")
    additions.pretrain(tmp_path, 1, images)
    assert "started_from" not in additions.read(tmp_path, "data.json")


@pytest.mark.slow
def test_an_imported_checkpoint_is_trained_on(tmp_path):
    path = golden_values.write_weights(tmp_path, "unet_small")
    imported, photos = tmp_path / "imported", tmp_path / "photos"
    given = (f"path={path}", "process=ddpm", "image_size=16")
    flags = [f"--config.import_weights.{one}" for one in given]
    main.run(["main", "--task=import", f"--workdir={imported}", *flags])
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        fid_tools.write_folder(photos / folder, fid_tools.images(10, 0, (16, 16, 3)))
    network = additions.read(imported, "config.json")["network"]
    same = [
        f"--config.network.{field}={word(value)}"
        for field, value in network.items()
        if value is not None and field not in ("name", "self_condition")
    ]
    main.run(
        [
            "main",
            "--config=configs/digits.py",
            "--task=pretrain",
            f"--workdir={tmp_path / 'run'}",
            "--config.data.name=image_folder",
            f"--config.data.folder={photos}",
            "--config.data.image_size=16",
            "--config.train.steps=1",
            "--config.train.batch_size=4",
            f"--config.train.start_from={imported}",
            SELF_CONDITIONED,
            *same,
            *FROZEN,
        ]
    )
    leaves = jax.tree_util.tree_leaves_with_path(ddae_jax.load(imported).params)
    old = {f"{EMA}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    new = assert_carried_over(old, averages(tmp_path / "run", 1))
    assert len(new) == 4 and all("self_condition" in name for name in new)


def word(value):
    """A value as the command line reads it."""
    if isinstance(value, list):
        return "(" + "".join(f"{one}," for one in value) + ")"
    return value


@pytest.mark.campaign
def test_eight_devices_that_share_the_parameters(plain, images, tmp_path):
    start = f"--config.train.start_from={plain}"
    sharded = ("--config.mesh.fsdp=8", start, SELF_CONDITIONED, *FROZEN)
    command = additions.words(tmp_path / "run", 1, images, *sharded)
    run_tools.run_each([command], devices=8)
    new = assert_carried_over(averages(plain, 2), averages(tmp_path / "run", 1))
    assert len(new) == 4


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--config.network.name=uvit",), r"network\.name is uvit, of .* dit"),
        (("--config.network.hidden_size=32",), r"hidden_size is 32, of .* 16"),
        (("--config.process.name=flow",), r"process\.name is flow, of .* ddpm"),
        (("--config.network.depth=3",), r"network\.depth is 3, of .* 2"),
    ],
)
def test_weights_of_another_model_are_refused(plain, images, tmp_path, flags, expected):
    start = f"--config.train.start_from={plain}"
    message = additions.refusal(tmp_path / "run", images, start, *flags)
    assert message.startswith("config.train.start_from: ")
    assert re.search(expected, message)


def test_weights_of_other_images_are_refused(plain, tmp_path):
    images = additions.write_images(tmp_path / "images", side=12)
    start = f"--config.train.start_from={plain}"
    larger = "--config.data.image_size=12"
    message = additions.refusal(tmp_path / "run", images, start, larger)
    assert f"the images are (12, 12, 1), those of {plain} (8, 8, 1)" in message


def test_a_folder_that_holds_no_weights_is_one_line(images, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, expected in [
        ("none", "there is no such folder"),
        ("empty", "neither an"),
    ]:
        start = f"--config.train.start_from={tmp_path / name}"
        message = additions.refusal(tmp_path / "run", images, start)
        assert message.startswith("config.train.start_from: ") and expected in message
    itself = f"--config.train.start_from={tmp_path / 'run'}"
    message = additions.refusal(tmp_path / "run", images, itself)
    assert message.endswith("is the workdir itself")


@pytest.mark.slow
def test_self_conditioned_weights_need_the_same_self_conditioning(
    continued, images, tmp_path
):
    workdir, _ = continued
    start = f"--config.train.start_from={workdir}"
    message = additions.refusal(tmp_path / "run", images, start)
    assert "has parameters that this network has not: self_condition/" in message
    other = "--config.network.self_condition.tap=layer-0"
    message = additions.refusal(tmp_path / "run", images, start, other)
    assert f"self_condition.tap is layer-0, of {workdir} layer-1" in message
    named = "--config.network.self_condition.tap=layer-1"  # the default by its name
    additions.pretrain(tmp_path / "run", 1, images, start, named)


def test_a_start_is_checked_before_a_search(images, tmp_path):
    start = f"--config.train.start_from={tmp_path / 'none'}"
    auto = "--config.network.self_condition.tap=auto"
    with pytest.raises(UserError, match="there is no such folder"):
        additions.pretrain(tmp_path / "run", 1, images, start, auto)
    assert not list((tmp_path / "run").glob("source_search/*/checkpoints"))
