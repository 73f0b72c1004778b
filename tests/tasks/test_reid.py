"""The task reid: what it leaves, goes on from, and refuses."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.heads import aligned_losses
from ddae_jax.runtime import log
from ddae_jax.weights import folder as weights_folder
from tests.tools import data_files
from tests.tools import runs as run_tools

pytestmark = pytest.mark.slow

CONFIG = "--config=configs/reid_demo.py:resnet+test"
DENOISER = "--config=configs/reid_demo.py:frozen+test"
FIELDS = ("reid.epochs=4", "reid.decay_from=2", "reid.persons=3", "reid.log_every=2")


def words(workdir, data, *fields, config=CONFIG, task="reid"):
    ours = ("data.name=market1501", f"data.folder={data}", *FIELDS, *fields)
    flags = (f"--config.{field}" for field in ours)
    return (config, f"--workdir={workdir}", f"--task={task}", *flags)


def run(*arguments, **options):
    main.run(["main", *words(*arguments, **options)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("persons")
    data_files.write_persons(folder)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data):
    """Trained and evaluated without an interruption, by the command line."""
    folder = tmp_path_factory.mktemp("reid") / "run"
    run_tools.run(*words(folder, data, "reid.multi_query=True", task="reid,report"))
    return folder


def read(workdir, name="reid"):
    return json.loads((workdir / f"{name}.json").read_text())


def weights(workdir, name="reid"):
    return weights_folder.read_tensors(workdir / name / weights_folder.FILE)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_the_command_line_leaves_results_that_the_report_shows(workdir):
    found = read(workdir)
    assert (found["steps"], found["train_images"], found["train_persons"]) == (8, 24, 6)
    assert (found["query_images"], found["gallery_images"]) == (8, 11)
    assert found["distractors"] == 3 and not found["synthetic"]
    # Three distances, re-ranked and not, single and multi-query.
    assert len(found["results"]) == 12
    kinds = {(r["queries"], r["distance"], r["re_ranked"]) for r in found["results"]}
    assert len(kinds) == 12
    for result in found["results"]:
        assert 0 < result["map_precision_at_hits"] <= 1
        assert 0 < result["map_trapezoid"] <= 1
        ranks = [result[f"rank_{k}"] for k in (1, 5, 10, 20)]
        assert ranks == sorted(ranks) and ranks[-1] == 1
    assert [row["step"] for row in found["curve"]] == [2, 4, 6, 8]
    assert {"global_triplet", "local_triplet"} <= found["curve"][0].keys()
    assert "identity" not in found["curve"][0]
    text = (workdir / "reid.txt").read_text()
    assert "mAP % (trapezoid)" in text and "global, re-ranked" in text
    for number in range(1, len(found["shown"]["pictures"]) + 1):
        name = "reid.png" if number == 1 else f"reid+{number}.png"
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    assert number >= 3
    assert "Persons across cameras" in (workdir / "report.html").read_text()
    assert {name.split("/")[0] for name in weights(workdir)} == {"first"}


def test_a_folder_is_evaluated_with_the_trained_network(workdir, data, tmp_path):
    """The set's own test images, copied: what was measured comes out again."""
    mine = tmp_path / "mine"
    shutil.copytree(data / "query", mine / "query")
    shutil.copytree(data / "bounding_box_test", mine / "gallery")
    before = weights(workdir)
    run(
        workdir,
        data,
        "reid.model=reid",
        "reid.output=reid_mine",
        f"reid.folder={mine}",
    )
    ours, theirs = read(workdir, "reid_mine"), read(workdir)
    singles = [r for r in theirs["results"] if r["queries"] == "single"]
    assert ours["results"] == singles
    assert_same_weights(weights(workdir), before)
    assert not (workdir / "reid_mine").exists()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("SIGKILL", -9),
        pytest.param("SIGTERM", 0, marks=pytest.mark.campaign),
        pytest.param("SIGINT", 130, marks=pytest.mark.campaign),
    ],
)
def test_stopped_and_gone_on_is_bitwise_the_same(data, tmp_path, number, status):
    fields = ("reid.epochs=20", "reid.mutual=True", "reid.identity_weight=1.0")
    whole, again = tmp_path / "whole", tmp_path / "again"
    run(whole, data, *fields)
    process = run_tools.start(*words(again, data, *fields))
    deadline = time.monotonic() + 300
    while len(log.read_metrics(again / "reid")) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[number])
    _, errors = process.communicate()
    assert process.returncode == status and "Traceback" not in errors
    assert not (again / "reid.json").exists()
    run(again, data, *fields)
    assert_same_weights(weights(whole), weights(again))
    rows = [log.read_metrics(folder / "reid") for folder in (whole, again)]
    one, other = map(run_tools.without_times, rows)
    assert one == other
    assert read(whole)["results"] == read(again)["results"]


def test_eight_devices_give_the_losses_of_one(workdir, data, tmp_path):
    fields = ("reid.persons=4", "reid.images_each=4", "mesh.fsdp=2")
    run(tmp_path / "one", data, *fields[:2])
    run_tools.run(*words(tmp_path / "eight", data, *fields), devices=8)
    one, eight = (log.read_metrics(tmp_path / n / "reid") for n in ("one", "eight"))
    assert len(one) == len(eight) == 2
    for ours, theirs in zip(one, eight, strict=True):
        for name in ("loss", "global_triplet", "local_triplet"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


@pytest.mark.parametrize(
    "frozen", [True, pytest.param(False, marks=pytest.mark.campaign)]
)
def test_features_of_a_denoiser(data, tmp_path, frozen):
    """Two networks on the features of one checkpoint; only the head, or all of it."""
    fields = (f"reid.frozen={frozen}", "reid.mutual=True", "reid.identity_weight=0.5")
    run(tmp_path, data, *fields, config=DENOISER, task="pretrain,reid")
    found, names = read(tmp_path), weights(tmp_path)
    assert "noise level" in found["network"] and found["trained_with"]["step"] == 4
    assert {name.split("/")[0] for name in names} == {"first", "second"}
    trained = any(name.startswith("first/params/backbone/") for name in names)
    assert trained != frozen
    assert (names["first/params/head/reduce/kernel"].shape[0]) == 8  # the projection
    assert {"mutual_distance", "mutual_identity"} <= found["curve"][0].keys()
    again = ("reid.model=reid", "reid.output=reid_again")
    run(tmp_path, data, *fields, *again, config=DENOISER)
    assert read(tmp_path, "reid_again")["results"] == found["results"]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (("reid.persons=7",), r"config\.reid\.persons: 7 of the 6 persons"),
        (("reid.images_each=5",), r"config\.reid\.images_each: 5, but person"),
        (("reid.frozen=True",), r"config\.reid\.frozen: a resnet without"),
        (("reid.resnet.weights=none.pth",), r"config\.reid\.resnet\.weights: there"),
        (("reid.more_training=('cuhk03',)",), r"'cuhk03' is not NAME=FOLDER"),
        (("reid.model=reid_none",), r"config\.reid\.model: .* nothing was trained"),
        (("reid.folder=tests",), r"config\.reid\.folder: tests has no folder query"),
        (("reid.margin=0.5",), r"config\.reid\.margin: .*with 0\.3, not 0\.5; name"),
        (("reid.decay_from=9",), r"config\.reid\.decay_from: 9, but reid\.epochs is"),
        (("reid.label_smoothing=0.1",), r"label_smoothing: reid\.identity_weight is 0"),
        (("reid.model=reid", "reid.pooling=mean"), r"reid\.pooling: reid was tr"),
    ],
)
def test_what_cannot_be_used_is_one_line(workdir, data, fields, match):
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError, match=match) as raised:
        run(workdir, data, *fields)
    assert "\n" not in str(raised.value)
    assert read(workdir)["steps"] == 8
    assert sorted(workdir.rglob("*")) == before


def test_a_loss_that_is_not_finite_stops(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        aligned_losses, "triplet_loss", lambda distances, *_: distances.sum() * np.nan
    )
    # A margin of its own: a step that is compiled already would be taken.
    with pytest.raises(UserError, match=r"not finite.*config\.reid\.learning_rate"):
        run(tmp_path, data, "reid.margin=0.25")
    assert (tmp_path / "reid" / "diverged.txt").exists()
    monkeypatch.undo()
    run(tmp_path, data, "reid.margin=0.2")  # other settings may begin anew
    assert read(tmp_path)["steps"] == 8


def test_the_demo_of_synthetic_persons_says_that_it_is_one(tmp_path):
    main.run(["main", CONFIG, f"--workdir={tmp_path}", "--task=reid"])
    found = read(tmp_path)
    assert found["synthetic"] and found["tested_on"] == "synthetic_people"
    assert "synthetic" in (tmp_path / "reid.txt").read_text().splitlines()[0]


@pytest.mark.parametrize("config", ["market1501:test", "cuhk03:old+test"])
def test_configs_of_photographs_run_on_synthetic_persons(data, tmp_path, config):
    main.run(
        [
            "main",
            f"--config=configs/{config.replace(':', '.py:')}",
            f"--workdir={tmp_path}",
            f"--config.data.folder={data}",
        ]
    )
    found = read(tmp_path)
    assert found["tested_on"] == config.split(":")[0]
    assert (tmp_path / "report.html").is_file()
    shot = "single shot, 100 draws" if "old" in config else "whole"
    assert found["protocol"]["gallery"] == shot
