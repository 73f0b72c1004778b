"""Terms beside the denoising loss, by the command line: resuming, collapse, errors."""

import json
import time

import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.runtime import log
from ddae_jax.settings import command_line
from tests.tools import additions
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools

pytestmark = pytest.mark.slow

STEPS = 6
ON = "--config.objectives.{}.on=True"
CONTRASTIVE = (
    ON.format("contrastive"),
    "--config.objectives.contrastive.hidden=8",
    "--config.objectives.contrastive.noise_limit=1e6",  # every image counts
)
ALIGNMENT = (ON.format("alignment"), "--config.objectives.alignment.hidden=8")
FEATURES = "--config.objectives.alignment.features={}"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return additions.write_images(tmp_path_factory.mktemp("images"))


def save_features(path, *shape, kind=np.float32):
    np.save(path, np.random.default_rng(0).normal(size=shape).astype(kind))
    return FEATURES.format(path)


@pytest.fixture(scope="module")
def everything(tmp_path_factory, images):
    """The flags of every term at once, with self-conditioning."""
    path = tmp_path_factory.mktemp("features") / "features.npy"
    return (
        images,
        additions.SELF_CONDITIONED,
        *CONTRASTIVE,
        *ALIGNMENT,
        save_features(path, additions.COUNT, 4, 4, 3),
        ON.format("dispersive"),
        ON.format("self_alignment"),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, everything):
    """An uninterrupted run with all of them."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    additions.pretrain(workdir, STEPS, *everything)
    return workdir


def test_killed_and_resumed_with_every_objective_is_bitwise_the_same(
    tmp_path, everything, whole
):
    command = additions.words(tmp_path, STEPS, *everything)
    for target in (1, 3):
        process = run_tools.start(*command)
        deadline = time.monotonic() + 300
        while len(log.read_metrics(tmp_path)) < target and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
    run_tools.run(*command)
    states = [run_tools.saved_state(folder, STEPS) for folder in (tmp_path, whole)]
    run_tools.assert_same_state(*states)
    for name in ("contrastive", "alignment", "self_alignment"):
        assert any(key.startswith(f"['objectives']['{name}']") for key in states[0])
    rows = [run_tools.without_times(log.read_metrics(f)) for f in (tmp_path, whole)]
    assert rows[0] == rows[1]


def test_metrics_of_every_term_are_in_every_row(whole):
    rows = log.read_metrics(whole)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert {
            "contrastive/loss",
            "contrastive/accuracy",
            "contrastive/cosine",
            "contrastive/feature_variance",
            "contrastive/effective_rank",
            "contrastive/spread",
            "dispersive/loss",
            "self_alignment/loss",
            "alignment/cosine",
            "total_loss",
        } <= row.keys()
        assert 1 <= row["contrastive/effective_rank"] <= 16
        assert row["contrastive/spread"] > 0


@pytest.mark.campaign
def test_a_collapse_is_said_once_or_ends_the_run(images, tmp_path, caplog, capsys):
    rank = "--config.objectives.contrastive.collapse_rank=1e6"
    stop = "--config.objectives.contrastive.stop_on_collapse=True"
    flags = (images, *CONTRASTIVE, rank)
    with caplog.at_level("WARNING"):
        additions.pretrain(tmp_path, 2, *flags)
    said = [text for text in caplog.messages if "have collapsed" in text]
    where = "contrastive: the features of layer-1 have collapsed at step {}: effective"
    assert len(said) == 1 and said[0].startswith(where.format(1))
    assert said[0].endswith(
        "below config.objectives.contrastive.collapse_rank 1000000.0"
    )
    with pytest.raises(SystemExit) as ended:
        main.main(["main", *additions.words(tmp_path, 3, *flags, stop)])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {where.format(3)}")
    assert run_tools.saved_state(tmp_path, 2)["['step']"] == 2


def test_where_features_lie_and_when_to_stop_may_change(whole, everything, caplog):
    changes = (
        FEATURES.format("elsewhere.npy"),
        "--config.objectives.contrastive.stop_on_collapse=True",
        "--config.objectives.contrastive.collapse_rank=3",
    )

    def parsed(*flags):
        command = additions.words(whole, STEPS, *everything, *flags)
        return command_line.parse(["main", *command], main.define_flags).settings

    objectives = parsed(*changes).section("objectives")
    assert objectives.alignment.features == "elsewhere.npy"
    assert objectives.contrastive.stop_on_collapse
    assert objectives.contrastive.collapse_rank == 3
    assert "was trained with" not in caplog.text
    # What is not said, and what would be another training, stays.
    objectives = parsed(FEATURES.format(""), "--config.objectives.contrastive.weight=9")
    objectives = objectives.section("objectives")
    assert objectives.alignment.features.endswith("features.npy")
    assert objectives.contrastive.weight == 0.1
    assert "objectives.contrastive.weight=0.1: that is used, not 9.0" in caplog.text


def test_a_run_goes_on_with_the_features_that_it_was_trained_with(
    images, tmp_path, capsys
):
    flags = [images, *ALIGNMENT]
    given = save_features(tmp_path / "features.npy", additions.COUNT, 5)
    additions.pretrain(tmp_path / "run", 1, *flags, given)
    np.save(tmp_path / "moved.npy", np.load(tmp_path / "features.npy"))
    np.save(tmp_path / "other.npy", 1 + np.load(tmp_path / "features.npy"))
    additions.pretrain(
        tmp_path / "run", 2, *flags, FEATURES.format(tmp_path / "moved.npy")
    )
    command = additions.words(
        tmp_path / "run", 3, *flags, FEATURES.format(tmp_path / "other.npy")
    )
    with pytest.raises(SystemExit):
        main.main(["main", *command])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert "config.objectives.alignment.features: not what" in line


def test_features_of_a_network_are_computed_once(images, tmp_path, monkeypatch):
    fid_tools.write_network(tmp_path / "network")
    flags = (images, *ALIGNMENT, FEATURES.format(tmp_path / "network"))
    additions.pretrain(tmp_path / "run", 1, *flags)
    (file,) = (tmp_path / "run" / "alignment_features").iterdir()
    features = np.load(file)
    assert features.shape == (additions.COUNT, fid_tools.WIDTH)
    assert np.isfinite(features).all() and features.std(axis=0).min() > 0
    assert "alignment/cosine" in log.read_metrics(tmp_path / "run")[0]
    before = file.stat().st_mtime_ns
    additions.pretrain(tmp_path / "run", 2, *flags)
    assert file.stat().st_mtime_ns == before
    other = tmp_path / "given"  # the same features as a file
    additions.pretrain(other, 1, images, *ALIGNMENT, FEATURES.format(file))
    states = [run_tools.saved_state(f, 1) for f in (tmp_path / "run", other)]
    run_tools.assert_same_state(*states)


def refused(workdir, images, features, *flags):
    message = additions.refusal(workdir, images, *ALIGNMENT, features, *flags)
    assert message.startswith("config.objectives.alignment.features: ")
    return message


def test_features_of_another_set_are_refused(images, tmp_path):
    path = tmp_path / "features.npy"
    cases = [
        ((39, 5), {}, "39 rows, the training set has 40 images"),
        ((40,), {}, "shape (40,); (images, width) or"),
        ((40, 2, 3), {}, "shape (40, 2, 3)"),
        ((40, 0), {}, "shape (40, 0)"),
        ((40, 5), {"kind": np.int32}, "not an array of float"),
    ]
    for shape, kind, expected in cases:
        features = save_features(path, *shape, **kind)
        assert expected in refused(tmp_path / "run", images, features)


def test_files_that_hold_no_features_are_refused(images, tmp_path):
    run = tmp_path / "run"
    text, pickled = tmp_path / "text.npy", tmp_path / "pickled.npy"
    text.write_text("these are no numbers")
    np.save(pickled, np.array([{}] * additions.COUNT, object), allow_pickle=True)
    packed = tmp_path / "packed.npz"
    np.savez(packed, features=np.zeros((additions.COUNT, 5), np.float32))
    (tmp_path / "folder").mkdir()
    for path, expected in [
        (text, "not an .npy array"),
        (pickled, "not an .npy array"),
        (packed, "but an archive"),
        (tmp_path / "none.npy", "there is no file"),
        (tmp_path / "folder", "network.json"),
    ]:
        assert expected in refused(run, images, FEATURES.format(path))
    message = additions.refusal(run, images, *ALIGNMENT)
    assert message.startswith("config.objectives.alignment.features: name a .npy file")


def test_a_feature_network_of_other_images_is_refused(images, tmp_path):
    fid_tools.write_network(tmp_path / "network", (12, 12, 1))
    message = refused(tmp_path / "run", images, FEATURES.format(tmp_path / "network"))
    assert "(12, 12, 1)" in message and "(8, 8, 1)" in message


def test_warped_images_have_no_features_of_their_own(images, tmp_path):
    flags = (
        "--config=configs/cifar10.py:edm_songunet+test",
        images,
        "--config.data.name=idx",
        "--config.data.channels=1",
        "--config.network.image_channels=1",
        f"--workdir={tmp_path / 'run'}",
        save_features(tmp_path / "features.npy", additions.COUNT, 5),
        *ALIGNMENT,
    )
    with pytest.raises(UserError) as error:
        main.run(["main", "--task=pretrain", *flags])
    message = str(error.value)
    assert message.startswith("config.objectives.alignment.features: ")
    assert "set config.train.augment_probability=0" in message


def test_an_old_config_without_the_new_sections_goes_on(images, tmp_path, caplog):
    """Checkpoints of that time: tests/runtime/test_checkpoint.py."""
    additions.pretrain(tmp_path, 1, images)
    config = additions.read(tmp_path, "config.json")
    for section in ("objectives", "source_search"):
        del config[section]
    del config["network"]["self_condition"], config["train"]["start_from"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with caplog.at_level("INFO"):
        resume = ("--task=pretrain", "--config.train.steps=2")
        main.run(["main", f"--workdir={tmp_path}", *resume])
    assert "pretrain: resuming from step 1" in caplog.text
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert "objectives" in additions.read(tmp_path, "config.json")


def test_the_overhead_of_self_conditioning_is_said(images, tmp_path, caplog):
    with caplog.at_level("INFO"):
        additions.pretrain(tmp_path, 1, images, additions.SELF_CONDITIONED)
    (line,) = (text for text in caplog.messages if "self-conditioning by" in text)
    # 16 x 16 + 16 of the projection, 16 + 1 of the time's scale
    assert line.startswith("self-conditioning by layer-1: 289 parameters (1.95 % more)")
    assert "544 operations per image (" in line
