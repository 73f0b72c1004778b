"""The probe task: what it writes, how it chooses, what it refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.features.encode import Pixels
from ddae_jax.runtime import parallel
from ddae_jax.tasks import probe
from ddae_jax.tasks.probe import adam as probe_adam
from ddae_jax.tasks.probe import data as probe_data
from ddae_jax.tasks.probe.adam import AdamProbe, training_inputs
from tests.tools.experiments import experiment_of
from tests.tools.probes import digit_parts, make_config


def run(config, workdir):
    probe.run(experiment_of(config, workdir))
    return json.loads((workdir / "probe.json").read_text())


@pytest.mark.slow
def test_the_converged_probe_chooses_on_held_out_images(probe_workdir, caplog):
    config = make_config()
    config.probe.seeds = 2
    with caplog.at_level("INFO"):
        report = run(config, probe_workdir)
    assert report["step"] == 3 and report["seeds"] == [0, 1]
    counts = report["protocol"]
    assert counts["train_images"] == 600
    assert counts["held_out_images"] == pytest.approx(
        600 * config.probe.held_out, abs=10
    )
    assert counts["test_images"] == 200
    cells = report["cells"]
    grid = [(cell["tap"], cell["time"]) for cell in cells]
    assert grid == [("out_1", 1), ("out_1", 300), ("out_2", 1), ("out_2", 300)]
    assert cells[0]["noise_level"] == pytest.approx(0.0100, abs=1e-4)
    for cell in cells:
        for part, count in (("held_out", counts["held_out_images"]), ("test", 200)):
            values = cell[f"{part}_by_seed"]
            assert len(values) == 2
            assert cell[part] == pytest.approx(np.mean(values))
            assert all(
                (v * count) % 1 < 1e-6 or (v * count) % 1 > 1 - 1e-6 for v in values
            )
    for part in (report, *report["baselines"].values()):
        chosen = part["chosen"]
        assert chosen["held_out"] == max(cell["held_out"] for cell in part["cells"])
        assert part["best_on_test"]["test"] == max(c["test"] for c in part["cells"])
        spread = abs(np.subtract(*chosen["test_by_seed"])) / 2
        assert chosen["standard_error"] == pytest.approx(spread)
    # The noise hides the digit at level 1 more than at 0.01.
    accuracy = {key: cell["test"] for key, cell in zip(grid, cells, strict=True)}
    assert accuracy["out_2", 1] > accuracy["out_2", 300] > 0.15
    untrained = report["baselines"]["untrained"]
    assert [(c["tap"], c["time"]) for c in untrained["cells"]] == grid
    assert untrained["cells"] != cells
    assert report["baselines"]["pixels"]["chosen"]["test"] > 0.9

    text = (probe_workdir / "probe.txt").read_text()
    assert text.count(" *\n") == 3 and "biased upwards" in text
    assert (probe_workdir / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert "probe of step 3: test accuracy" in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


@pytest.mark.slow
def test_a_cell_of_the_published_protocol_has_the_value_it_has_alone(
    probe_workdir, caplog
):
    config = make_config()
    config.probe.classifier = "adam"
    config.probe.epochs = 2
    config.probe.crop = 1
    grid = run(config, probe_workdir)
    assert grid["protocol"]["epochs"] == 2
    assert "10 steps of Adam, too few to converge" in caplog.text
    assert grid["chosen"]["standard_error"] is None
    config.probe.taps = ("out_2",)
    config.probe.times = ()
    config.probe.noise_levels = (1.0, 1e-2)
    config.probe.baselines = False
    alone = run(config, probe_workdir)
    assert alone["baselines"] == {}
    assert alone["cells"][0]["noise_level"] == pytest.approx(1, rel=0.01)
    assert alone["cells"][1]["time"] == 1
    together = [c for c in grid["cells"] if (c["tap"], c["time"]) == ("out_2", 1)]
    for part in ("held_out", "test"):
        # XLA may fuse differently: a prediction on the edge may turn.
        assert alone["cells"][1][part] == pytest.approx(together[0][part], abs=0.006)


@pytest.mark.slow
def test_steps_per_dispatch_do_not_change_the_heads(
    probe_workdir, tmp_path, monkeypatch
):
    workdir = shutil.copytree(probe_workdir, tmp_path / "run")
    config = make_config()
    config.probe.classifier, config.probe.epochs = "adam", 2
    config.probe.taps, config.probe.baselines = ("out_2",), False
    counts, found = [], []
    dispatch, fit = probe_adam._Trainer.dispatch, AdamProbe.fit

    def counted(self, state, step, count):
        counts.append(count)
        return dispatch(self, state, step, count)

    def kept(*arguments):
        found.append(fit(*arguments))
        return found[-1]

    monkeypatch.setattr(probe_adam._Trainer, "dispatch", counted)
    monkeypatch.setattr(AdamProbe, "fit", kept)
    run(config, workdir)
    config.train.steps_per_dispatch = 3
    run(config, workdir)
    # 5 steps an epoch, the last of which is an event.
    assert counts == [1] * 10 + [3, 2] * 2
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_published_protocol_learns_and_streams_alike(tmp_path):
    train, test = digit_parts()
    protocol = AdamProbe(Pixels(), (0.0,), 10, 15, 64, 2e-2, flip=False, crop=0)
    mesh, key = parallel.make_mesh(), jax.random.key(0)
    held_out = data_source.held_out_mask(train, 0.5, 0)
    both = protocol.fit(tmp_path / "whole", {}, mesh, train, held_out, key, 0)
    half, whole = (
        protocol.accuracies(heads, {}, mesh, test, key)[0]["pixels"] for heads in both
    )
    assert whole > half > 0.88 and whole > 0.93
    small = data_source.subset(train, np.arange(100))
    streamed = dataclasses.replace(small, images=None, reader=small.read)
    short = dataclasses.replace(protocol, epochs=1)
    ours, theirs = (
        short.fit(tmp_path / name, {}, mesh, source, held_out[:100], key, 0)[1][0][
            "pixels"
        ]["kernel"]
        for name, source in (("small", small), ("streamed", streamed))
    )
    np.testing.assert_array_equal(ours, theirs)


def test_training_images_are_augmented_and_noised_by_their_place():
    images = digit_parts()[0].images[:4]
    key = jax.random.key(1)
    places = np.array([5, 6, 7, 8], np.int32)
    x0, noise = training_inputs(images, places, key, True, 2)
    again, same = training_inputs(images[[2]], places[[2]], key, True, 2)
    np.testing.assert_array_equal(again[0], x0[2])
    np.testing.assert_array_equal(same[0], noise[2])
    assert np.abs(x0).max() <= 1 + 1e-6
    plain, _ = training_inputs(images, places, key, False, 0)
    np.testing.assert_allclose(plain, images / 127.5 - 1, atol=1e-6)
    assert not np.allclose(plain, x0)
    later, fresh = training_inputs(images, places + 4, key, True, 2)
    assert not np.allclose(later, x0) and not np.allclose(fresh, noise)


@pytest.mark.parametrize(
    "process, field, value, message",
    [
        ("edm", "times", (4, 0), r"probe\.times: 0 has noise level 0"),
        ("edm", "times", (19,), r"probe\.times: time 19 is not .* 0\.\.18"),
        ("ddpm", "times", (0,), r"probe\.times: time 0 is not .* 1\.\.1000"),
        ("ddpm", "times", (11, 11), r"probe\.times: 11 and 11 are the same"),
        ("ddpm", "noise_levels", (0.05, 1e4), r"noise_levels: 10000 is out of"),
        ("ddpm", "noise_levels", (0.05, 0.0501), r"noise_levels: 0\.05 and 0\.0501"),
        ("ddpm", "held_out", 1e-3, r"probe\.held_out: .*leaves none"),
        ("ddpm", "held_out", 0.01, r"probe\.held_out: .*too few"),
        ("ddpm", "train_count", 7, r"probe\.train_count: 7 training .* 10 classes"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    probe_workdir, process, field, value, message, monkeypatch
):
    config = make_config(process)
    config.probe[field] = value
    monkeypatch.setattr(Experiment, "trained", restored)
    with pytest.raises(UserError, match=message) as raised:
        probe.run(experiment_of(config, probe_workdir))
    assert "\n" not in str(raised.value)


def restored(self, step=None):
    """What `Experiment.trained` gives, without weights: checks come before them."""
    return Trained(self.denoiser, {}, 3, (8, 8, 1), self.mesh)


def test_sources_that_do_not_fit_are_refused(probe_workdir):
    train, test = digit_parts()
    one = data_source.subset(train, np.flatnonzero(train.labels == 3))
    with pytest.raises(UserError, match="digits are of one class"):
        probe_data.check_sources(one, test, (8, 8, 1))
    with pytest.raises(UserError, match=r"\(8, 8, 1\), the checkpoint .* \(32, 32, 1"):
        probe_data.check_sources(train, test, (32, 32, 1))
