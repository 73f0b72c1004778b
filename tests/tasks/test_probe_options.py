"""The probe's options, as the command line takes them."""

import json
import shutil

import jax
import numpy as np
import pytest

from ddae_jax import heads, main
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.features.encode import Pixels, example_noise
from ddae_jax.runtime import parallel
from ddae_jax.settings.probe import ProbeSettings
from ddae_jax.tasks.probe import data as probe_data
from ddae_jax.tasks.probe import fixed as probe_fixed
from ddae_jax.tasks.probe import grid as probe_grid
from ddae_jax.tasks.probe.adam import AdamProbe
from tests.tools import runs as run_tools
from tests.tools.encoders import OneFeature
from tests.tools.experiments import experiment_of
from tests.tools.probes import digit_parts, make_config


def run(folder, *fields, task="probe", tiny=run_tools.TINY):
    """Runs the command line on a workdir with the tiny network."""
    # Single taps, but where a test joins them.
    flags = [f"--config.{field}" for field in ("probe.concat=", *fields)]
    main.main(["ddae_jax", *tiny, f"--workdir={folder}", f"--task={task}", *flags])
    output = [f.split("=")[1] for f in fields if f.startswith("probe.output=")]
    return json.loads((folder / f"{(output or ['probe'])[0]}.json").read_text())


def refused(folder, capsys, *fields):
    """The one line with which the command line refuses."""
    with pytest.raises(SystemExit) as exited:
        run(folder, *fields)
    assert exited.value.code == 2
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("error: config.probe.")
    return line.removeprefix("error: ")


ALONE = "probe.baselines=False"


@pytest.mark.slow
def test_every_classifier_runs_beside_the_others(probe_workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(probe_workdir, folder)
    main_probe = run(folder, ALONE)  # logistic, from the digits' config
    assert main_probe["protocol"]["classifier"] == "logistic"
    found = {
        name: run(
            folder, f"probe.classifier={name}", f"probe.output=probe_{name}", *fields
        )
        for name, *fields in [
            ("adam", ALONE),
            ("ridge", ALONE, "probe.ridge_l2=(0.01,1.0)"),
            ("knn", ALONE, "probe.knn_k=5"),
            ("attentive",),
        ]
    }
    grid = [(cell["tap"], cell["time"]) for cell in main_probe["cells"]]
    assert grid == [("out_1", 1), ("out_1", 11), ("out_2", 1), ("out_2", 11)]
    for name, report in found.items():
        assert [(cell["tap"], cell["time"]) for cell in report["cells"]] == grid
        assert report["protocol"]["classifier"] == name
        for suffix in ("txt", "png"):
            assert (folder / f"probe_{name}.{suffix}").is_file()
        for cell in report["cells"]:
            assert len(cell["test_by_seed"]) == 2
    for cell in found["ridge"]["cells"]:
        for value, details in zip(
            cell["held_out_by_seed"], cell["details_by_seed"], strict=True
        ):
            swept = details["held_out_by_l2"]
            assert list(swept) == ["1", "0.01"]
            assert value == max(swept.values()) == swept[f"{details['l2']:g}"]
    for cell in found["knn"]["cells"]:
        for value, details in zip(
            cell["test_by_seed"], cell["details_by_seed"], strict=True
        ):
            by_metric = details["by_metric"]
            assert set(by_metric) == {"cosine", "euclidean"}
            assert value == by_metric[details["metric"]]["test"]
            best = max(metric["held_out"] for metric in by_metric.values())
            assert by_metric[details["metric"]]["held_out"] == best
    assert set(found["attentive"]["baselines"]) == {"untrained", "pixels"}
    # What learns from fixed features found those of the first on disk: a folder for
    # each seed and split.
    assert len(list((folder / "features").iterdir())) == 4

    main.main(["ddae_jax", *run_tools.TINY, f"--workdir={folder}", "--task=report"])
    page = (folder / "report.html").read_text()
    assert "Other probes" in page
    for name, report in found.items():
        assert f"probe_{name}</td><td" in page
        assert f"{100 * report['chosen']['test']:.1f} %" in page


@pytest.mark.slow
def test_joined_cells_are_those_features_side_by_side(probe_workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(probe_workdir, folder)
    ridge = ("probe.classifier=ridge", ALONE, "probe.seeds=1")
    names = {}
    for concat in ("taps", "times", "both"):
        report = run(folder, *ridge, f"probe.concat={concat}")
        names[concat] = [
            (cell["tap"], cell.get("times", cell["time"])) for cell in report["cells"]
        ]
        assert report["protocol"]["concatenated"] == concat
    assert names == {
        "taps": [("out_1+out_2", 1), ("out_1+out_2", 11)],
        "times": [("out_1", [1, 11]), ("out_2", [1, 11])],
        "both": [("out_1+out_2", [1, 11])],
    }
    (cell,) = report["cells"]
    assert cell["noise_level"] == cell["noise_levels"][0] < cell["noise_levels"][1]
    assert "0.01+0.04689" in (folder / "probe.txt").read_text()
    assert len(list((folder / "features").iterdir())) == 2
    main.main(["ddae_jax", *run_tools.TINY, f"--workdir={folder}", "--task=report"])
    assert "out_1+out_2, noise level 0.01" in (folder / "report.html").read_text()


def test_parts_of_joined_cells():
    parts = probe_grid.cell_parts(("a", "b"), 2, "both")
    assert parts == [{"a+b": [(0, "a"), (0, "b"), (1, "a"), (1, "b")]}]
    parts = probe_grid.cell_parts(("a", "b"), 2, "")
    assert parts == [{"a": [(i, "a")], "b": [(i, "b")]} for i in range(2)]
    times = (probe_grid.Time(5, 5.0, 0.3), probe_grid.Time(1, 1.0, 0.1))
    assert probe_grid.columns(times, "taps") == times
    (column,) = probe_grid.columns(times, "times")
    assert column.time == 1.0 and column.levels() == [0.3, 0.1]
    assert probe_grid.columns(times[:1], "both") == times[:1]


@pytest.mark.slow
def test_adam_learns_from_joined_features(tmp_path):
    """Two copies of the pixels, joined, are one layer of twice the width."""
    train, test = digit_parts()
    small = data_source.subset(train, np.arange(200))
    joined = AdamProbe(
        Pixels(), (0.0, 1.0), 10, 8, 50, 2e-2, flip=False, crop=0, concat="times"
    )
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    held_out = data_source.held_out_mask(small, 0.5, 0)
    _, heads = joined.fit(tmp_path, {}, mesh, small, held_out, key, 0)
    assert heads[0]["pixels"]["kernel"].shape == (128, 10)
    (found,) = joined.accuracies(heads, {}, mesh, test, key)
    assert list(found) == ["pixels"] and found["pixels"] > 0.7


@pytest.mark.slow
def test_draws_are_averaged_with_and_without_files(probe_workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(probe_workdir, folder)
    fields = ("probe.classifier=ridge", ALONE, "probe.seeds=1", "probe.times=(300,)")
    one = run(folder, *fields)
    with_files = run(folder, *fields, "probe.draws=3")
    assert len(list((folder / "features").iterdir())) == 2 * 3
    assert "mean features over 3 draws" in with_files["protocol"]["noise"]
    without = run(folder, *fields, "probe.draws=3", "probe.cache=False")
    for ours, theirs in zip(with_files["cells"], without["cells"], strict=True):
        # A prediction on the edge may turn by rounding.
        assert ours["test"] == pytest.approx(theirs["test"], abs=1.5 / 32)
        assert ours["held_out"] == pytest.approx(theirs["held_out"], abs=1.5 / 32)
    assert one["cells"] != with_files["cells"]
    elsewhere = tmp_path / "elsewhere"
    run(folder, *fields, f"probe.cache_folder={elsewhere}")
    assert len(list(elsewhere.iterdir())) == 2


def test_the_mean_is_over_fresh_noise():
    """With an encoder that gives the noise itself."""
    source = data_source.subset(digit_parts()[0], np.arange(5))
    key = jax.random.key(4)

    noise_alone = OneFeature(
        "tap", lambda x0, noise, time: time * noise.reshape(len(noise), -1)
    )
    extract = probe_fixed.Extractor(
        noise_alone, {}, parallel.make_mesh(), (1.0, 2.0), 4, 3
    )
    found = extract(source, key, 0)([(0, "tap"), (1, "tap")])
    keys = [jax.random.fold_in(key, draw) for draw in range(3)]
    draws = [example_noise(k, np.arange(5), (8, 8, 1)).reshape(5, -1) for k in keys]
    mean = np.mean(draws, axis=0)
    np.testing.assert_allclose(found, np.hstack([mean, 2 * mean]), atol=1e-6)
    assert found.dtype == np.float32


def test_a_fraction_of_the_labels(probe_workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(probe_workdir, folder)
    fields = (ALONE, "probe.classifier=ridge", "probe.train_count=0")
    few = run(folder, *fields, "probe.label_fraction=0.05")
    counts = few["protocol"]
    assert counts["label_fraction"] == 0.05
    assert counts["train_images"] == pytest.approx(0.05 * 1297, abs=5)
    assert 10 <= counts["held_out_images"] < counts["train_images"]

    config = make_config()
    config.probe.label_fraction, config.probe.seeds = 0.05, 2
    train = digit_parts()[0]
    by_seed = probe_data.labelled_by_seed(experiment_of(config), train)
    chosen = []
    for labelled, held_out in by_seed.values():
        for part in (held_out, ~held_out):
            assert set(labelled.labels[part]) == set(range(10))
        chosen.append(labelled.images)
    assert not np.array_equal(*(images[:50] for images in chosen))
    config.probe.label_fraction = 1.0
    for whole, mask in probe_data.labelled_by_seed(
        experiment_of(config), train
    ).values():
        assert whole is train and mask.sum() > 100
    config.probe.label_fraction = 0.012
    with pytest.raises(UserError, match="leaves one labelled image of class '4'; it"):
        probe_data.labelled_by_seed(experiment_of(config), train)


@pytest.mark.parametrize(
    "fields, message",
    [
        (("label_fraction=0.01",), "label_fraction: 0.01 of 64 images labels 1, fewer"),
        (("label_fraction=0.0",), "label_fraction: 0.0 is not above 0"),
        (("label_fraction=1.5",), "label_fraction: 1.5 is not above 0, at most 1"),
        (("classifier=forest",), "classifier: unknown 'forest'"),
        (("classifier=knn", "knn_k=999"), "knn_k: 999 is more than the 31 labelled"),
        (("knn_metric=('manhattan',)",), "knn_metric: unknown 'manhattan'"),
        (("knn_metric=()",), "knn_metric: empty"),
        (("ridge_l2=()",), "ridge_l2: empty"),
        (("ridge_l2=(0.1,0.0)",), "ridge_l2: 0.0 is not above 0"),
        (("knn_temperature=-1.0",), "knn_temperature: -1.0 is not 0 or more"),
        (("concat=all",), "concat: unknown 'all'"),
        (("draws=0",), "draws: 0 is not 1 or more"),
        (("draws=2", "classifier=adam"), "draws: 2, but adam draws noise anew"),
        (("concat=taps", "classifier=attentive"), "concat: 'taps' needs pooled taps"),
        (
            ("classifier=attentive", "attentive_heads=7"),
            "classifier: out_1: 7 attention heads",
        ),
        (("output=../probe",), "output: '../probe' is not of the form probe"),
        (("output=ridge",), "output: 'ridge' is not of the form probe"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    probe_workdir,
    tmp_path,
    capsys,
    fields,
    message,
):
    folder = tmp_path / "run"
    shutil.copytree(probe_workdir, folder)
    fields = [f"probe.{field}" for field in fields]
    line = refused(folder, capsys, ALONE, "probe.cache=False", *fields)
    assert line.removeprefix("config.probe.").startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifier": "adam", "draws": 2}, r"probe\.draws: 2, but adam draws noise"),
        ({"classifier": "attentive", "draws": 2}, r"logistic, ridge, knn average"),
        ({"classifier": "attentive", "concat": "taps"}, r"concat: 'taps' needs pooled"),
        ({"classifier": "logstic"}, r"classifier: unknown 'logstic'.*'logistic'"),
    ],
)
def test_what_a_head_cannot_do_is_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        heads.check(ProbeSettings(**fields))
