"""network.self_condition.tap=auto: short runs choose the source."""

import shutil
import signal
import time

import pytest

from ddae_jax import main
from ddae_jax.runtime import log, memory
from ddae_jax.tasks.pretrain import source_search
from ddae_jax.train import loop
from tests.tools import additions
from tests.tools import runs as run_tools

pytestmark = pytest.mark.slow

AUTO = "--config.network.self_condition.tap=auto"
STEPS = "--config.source_search.steps={}"
TABLE = "source_search.json"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return additions.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory, images):
    """A search of five steps, then a training of one."""
    workdir = tmp_path_factory.mktemp("searched") / "run"
    additions.pretrain(workdir, 1, images, AUTO, STEPS.format(5))
    return workdir


def source_of(workdir):
    config = additions.read(workdir, "config.json")
    return config["network"]["self_condition"]["tap"]


def test_the_tap_of_the_lowest_loss_is_taken_and_the_table_kept(searched):
    found = additions.read(searched, TABLE)
    assert set(found["losses"]) == {"layer-0", "layer-1"}
    assert found["tap"] == min(found["losses"], key=found["losses"].get)
    assert source_of(searched) == found["tap"]
    assert not (searched / "source_search").exists()
    text = (searched / "source_search.txt").read_text()
    assert "steps of each run: 5" in text and "layer-0" in text
    assert not log.read_metrics(searched)[-1]["step"] > 1


def test_the_loss_is_the_mean_of_the_second_half(images, tmp_path, monkeypatch):
    """Of five steps the last two, as a plain training's rows have them."""
    kept = []
    fit = loop.fit

    def kept_rows(folder, *arguments):
        state = fit(folder, *arguments)
        kept.append(log.read_metrics(folder))
        return state

    monkeypatch.setattr(loop, "fit", kept_rows)
    one = "--config.source_search.taps=layer-0"
    additions.pretrain(tmp_path / "auto", 5, images, AUTO, STEPS.format(5), one)
    search, training = kept
    assert [row["step"] for row in search] == [3, 5]
    mean = (training[3]["loss"] + training[4]["loss"]) / 2
    losses = additions.read(tmp_path / "auto", TABLE)["losses"]
    assert losses == {"layer-0": pytest.approx(mean, rel=1e-5)}


def test_later_tasks_use_the_tap_and_the_report_shows_the_table(searched, tmp_path):
    workdir = shutil.copytree(searched, tmp_path / "run")
    flags = (
        "--task=sample,probe,report",
        "--config.sample.count=8",
        "--config.sampler.steps=2",
        "--config.probe.classifier=ridge",
        "--config.probe.train_count=20",
        "--config.probe.test_count=20",
        "--config.probe.baselines=False",
    )
    main.run(["main", f"--workdir={workdir}", *flags])
    assert (workdir / "samples.npz").exists() and (workdir / "probe.json").exists()
    page = (workdir / "report.html").read_text()
    assert "Source of self-conditioning" in page
    assert f"{source_of(searched)}: the lowest training loss" in page


@pytest.mark.parametrize("tap", ["auto", "default"])
def test_the_same_command_neither_searches_nor_warns(
    searched, images, tmp_path, caplog, monkeypatch, tap
):
    workdir = shutil.copytree(searched, tmp_path / "run")
    chosen = source_of(workdir)
    monkeypatch.setattr(source_search, "resolved", None)
    asked = AUTO.replace("auto", tap)
    with caplog.at_level("INFO"):
        additions.pretrain(workdir, 1, images, asked, STEPS.format(5))
    said = [text for text in caplog.messages if "was trained with" in text]
    # The default is layer-1: another tap that was chosen is a contradiction.
    assert bool(said) == (tap == "default" and chosen != "layer-1")
    assert source_of(workdir) == chosen


def test_another_source_than_the_trained_one_is_said(
    searched, images, tmp_path, caplog
):
    workdir = shutil.copytree(searched, tmp_path / "run")
    chosen = source_of(workdir)
    (other,) = {"layer-0", "layer-1"} - {chosen}
    with caplog.at_level("INFO"):
        additions.pretrain(workdir, 1, images, AUTO.replace("auto", other))
    line = f"network.self_condition.tap='{chosen}': that is used, not '{other}'"
    assert line in caplog.text
    assert source_of(workdir) == chosen


def test_a_search_that_is_done_is_not_repeated_for_a_run_that_never_saved(
    searched, images, tmp_path, monkeypatch
):
    workdir = shutil.copytree(searched, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    monkeypatch.setattr(source_search, "_loss", None)
    additions.pretrain(workdir, 1, images, AUTO, STEPS.format(5))
    assert source_of(workdir) == source_of(searched)
    with pytest.raises(TypeError):  # another search
        shutil.rmtree(workdir / "checkpoints")
        additions.pretrain(workdir, 1, images, AUTO, STEPS.format(4))


def wait_for_search(process, workdir, tap="layer-1"):
    """Until a row of the last candidate's metrics is there."""
    deadline = time.monotonic() + 300
    while not log.read_metrics(workdir / "source_search" / tap):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.campaign
def test_a_killed_search_goes_on_to_the_same_table(images, tmp_path):
    flags = (images, AUTO, STEPS.format(30), "--config.train.checkpoint_every=3")
    additions.pretrain(tmp_path / "whole", 1, *flags)
    workdir = tmp_path / "killed"
    process = run_tools.start(*additions.words(workdir, 1, *flags))
    for tap in ("layer-0", "layer-1"):
        wait_for_search(process, workdir, tap)
        process.kill()
        process.communicate()
        process = run_tools.start(*additions.words(workdir, 1, *flags))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "search layer-0: already at step 30 of 30" in errors
    assert "search layer-1: resuming from step" in errors
    for name in (TABLE, "source_search.txt"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (workdir / name).read_bytes() == whole
    states = [
        run_tools.saved_state(folder, 1) for folder in (workdir, tmp_path / "whole")
    ]
    run_tools.assert_same_state(*states)


def test_ctrl_c_in_a_search_is_one_line(images, tmp_path):
    flags = (images, AUTO, STEPS.format(20_000))
    process = run_tools.start(*additions.words(tmp_path, 1, *flags))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("source_search/layer-0/checkpoints/[0-9]*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "stopped by signal at step" in errors.splitlines()[-1]
    assert not (tmp_path / TABLE).exists() and not (tmp_path / "checkpoints").exists()


def test_candidates_that_cannot_be_the_source_are_refused(images, tmp_path):
    taps = "--config.source_search.taps={}"
    for given in ("layer-7", "layer-0,nothing"):
        message = additions.refusal(tmp_path / "run", images, AUTO, taps.format(given))
        assert message.startswith("config.source_search.taps: ")
        assert "layer-0, layer-1" in message


def test_what_cannot_be_trained_is_said_before_the_search(
    images, tmp_path, monkeypatch
):
    objective = (
        "--config.objectives.alignment.on=True",
        f"--config.objectives.alignment.features={tmp_path / 'none.npy'}",
    )
    message = additions.refusal(tmp_path / "run", images, AUTO, *objective)
    assert message.startswith("config.objectives.alignment.features: there is no file")
    assert not (tmp_path / "run" / "source_search").exists()
    monkeypatch.setattr(memory, "available", lambda: 4000)
    message = additions.refusal(tmp_path / "run", images, AUTO)
    assert message.startswith("config.train.batch_size: 8 images of 8x8x1 needs")
    assert not (tmp_path / "run" / "source_search").exists()
