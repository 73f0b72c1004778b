"""The task track, by the command line, over several checkpoints."""

import json
import os
import shutil

import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.tasks import track
from tests.tools import compilations
from tests.tools import fid as fid_tools
from tests.tools import runs as run_tools

pytestmark = pytest.mark.slow

FLAGS = (
    *run_tools.TINY,
    "--config.probe.classifier=ridge",
    "--config.probe.noise_levels=(0.05,)",
    "--config.probe.seeds=1",
)


def read(workdir):
    return json.loads((workdir / "track.json").read_text())


@pytest.fixture(scope="module")
def workdir(pretrained_copy):
    main.main(["main", *FLAGS, f"--workdir={pretrained_copy}", "--task=track"])
    return pretrained_copy


def test_every_checkpoint_has_both_measures(workdir):
    found = read(workdir)
    assert [point["step"] for point in found["points"]] == [2, 4]
    for point in found["points"]:
        assert 0 <= point["probe"]["test"] <= 1 and point["fid"] > 0
    by_step = {point["step"]: point for point in found["points"]}
    assert by_step[2]["fid"] != by_step[4]["fid"]
    lowest = min(by_step, key=lambda step: by_step[step]["fid"])
    assert found["peaks"]["fid"] == lowest
    assert (workdir / "track.png").is_file()
    assert f"lowest at step {lowest}" in (workdir / "track.txt").read_text()


def test_the_second_checkpoint_compiles_nothing(pretrained_copy, tmp_path):
    copy = shutil.copytree(pretrained_copy, tmp_path / "run")
    shutil.rmtree(copy / "track", ignore_errors=True)
    flags = ["main", *FLAGS, f"--workdir={copy}", "--task=track"]
    main.main([*flags, "--config.track.steps=(2,)"])
    with compilations.names() as compiled:
        main.main([*flags, "--config.track.steps=(4,)"])
    assert compiled == [] and len(list((copy / "track").iterdir())) == 4


def test_a_copied_workdir_keeps_what_was_measured(workdir, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(workdir, copy, copy_function=shutil.copyfile)  # with new times
    before = {path: os.stat(path).st_mtime_ns for path in (copy / "track").iterdir()}
    main.main(["main", *FLAGS, f"--workdir={copy}", "--task=track"])
    assert {path: os.stat(path).st_mtime_ns for path in before} == before


def test_what_is_measured_is_not_repeated_and_other_settings_are(workdir):
    before = {path: os.stat(path).st_mtime_ns for path in (workdir / "track").iterdir()}
    assert len(before) == 4
    again = [*FLAGS, f"--workdir={workdir}", "--task=track"]
    main.main(["main", *again])
    assert {p: os.stat(p).st_mtime_ns for p in before} == before
    main.main(["main", *again, "--config.probe.ridge_l2=(0.5,)"])
    changed = {
        path.name for path in before if os.stat(path).st_mtime_ns != before[path]
    }
    assert changed == {"00000002_probe.json", "00000004_probe.json"}


def test_a_reference_that_was_changed_in_place_is_noticed(pretrained_copy, tmp_path):
    flags = [*FLAGS, f"--workdir={pretrained_copy}", "--task=track"]
    flags += ["--config.track.measures=('fid',)", "--config.track.steps=(4,)"]
    folder = tmp_path / "real"
    found = []
    for seed in (0, 1):
        shutil.rmtree(folder, ignore_errors=True)
        fid_tools.write_folder(folder, fid_tools.images(24, seed))
        main.main(["main", *flags, f"--config.fid.reference={folder}"])
        found.append(read(pretrained_copy)["points"][0]["fid"])
    assert found[0] != found[1]


def test_without_a_feature_network_the_probe_is_tracked_and_the_reason_told(workdir):
    flags = [*FLAGS, f"--workdir={workdir}", "--task=track"]
    missing = ["--config.fid.features=", "--config.fid.inception=/nowhere/file.pth"]
    main.main(["main", *flags, *missing])
    found = read(workdir)
    assert "/nowhere/file.pth" in found["distance_missing"]
    assert all("probe" in point and "fid" not in point for point in found["points"])
    with pytest.raises(UserError, match=r"/nowhere/file.pth"):
        main.run(["main", *flags, *missing, "--config.track.measures=('fid',)"])


def test_mistakes_are_named(workdir):
    flags = [*FLAGS, f"--workdir={workdir}", "--task=track"]
    with pytest.raises(UserError, match=r"config.track.steps: no 3 in .*known: 2, 4"):
        main.run(["main", *flags, "--config.track.steps=(3,)"])
    with pytest.raises(UserError, match=r"config.track.measures: unknown 'fdi'.*fid"):
        main.run(["main", *flags, "--config.track.measures=('fdi',)"])


def points(accuracies, distances):
    return [
        {"step": step, "probe": {"held_out": accuracy}, "fid": distance}
        for step, (accuracy, distance) in enumerate(
            zip(accuracies, distances, strict=True)
        )
    ]


@pytest.mark.parametrize(
    ("accuracies", "distances", "sentence"),
    [
        ((0.5, 0.9, 0.8, 0.7), (9, 5, 2, 3), "The probe peaks first, as"),
        ((0.5, 0.6, 0.9, 0.7), (9, 2, 3, 3), "not so here"),
        ((0.5, 0.6, 0.9), (9, 2, 1), "Generation is still best at the last"),
    ],
)
def test_the_note_says_what_the_peaks_show(accuracies, distances, sentence):
    given = points(accuracies, distances)
    assert sentence in track._note(given, track._peaks(given), "")
