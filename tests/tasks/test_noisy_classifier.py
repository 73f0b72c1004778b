"""The task noisy_classifier: what it writes, how it goes on, what it refuses."""

import json

import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.experiment.trained import Trained
from ddae_jax.runtime.files import write_json
from ddae_jax.settings import command_line, saved, schema
from ddae_jax.tasks import noisy_classifier
from ddae_jax.tasks.noisy_classifier import result as noisy_classifier_result
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of

pytestmark = pytest.mark.slow


def default_config(network="unet", process="ddpm"):
    return schema.default(network, process)


@pytest.fixture(scope="module")
def trained(pretrained_copy):
    """What the real command line leaves."""
    workdir = pretrained_copy
    run_tools.run(
        *run_tools.TINY,
        "--task=noisy_classifier",
        f"--workdir={workdir}",
        "--config.noisy_classifier.test_times=1,301,951",
    )
    return workdir


def read(workdir, name="noisy_classifier.json"):
    return json.loads((workdir / name).read_text())


def saved_config(workdir):
    return saved.read(workdir)


def test_both_curves_are_written(trained):
    content = read(trained)
    assert content["step"] == 4
    assert set(content["curves"]) == {"features", "wide_resnet"}
    for kind, name in (("features", "MLP on out_2"), ("wide_resnet", "WRN-10-1")):
        curve = content["curves"][kind]
        assert curve["name"] == name and curve["step"] == 4
        assert curve["times"] == [1, 301, 951]
        np.testing.assert_allclose(
            curve["noise_levels"], [0.0100, 1.24, 97.1], rtol=0.01
        )
        for accuracy in curve["accuracies"]:
            assert 0 <= accuracy <= 1 and (32 * accuracy) % 1 == 0
        assert curve["trained_by"]["flip"] is False  # as the probe's
    assert content["curves"]["features"]["trained_by"]["tap_chosen_by"] == "middle"
    protocol = content["protocol"]
    assert protocol["test_images"] == 32 and protocol["seed"] == 0
    assert "smaller than the published WRN-28-10" in content["shown"]["note"]
    text = (trained / "noisy_classifier.txt").read_text()
    assert "WRN-10-1 (%)" in text
    assert (trained / "noisy_classifier.png").read_bytes().startswith(b"\x89PNG")


def test_the_task_goes_on_where_it_was(trained, caplog):
    before = read(trained)["curves"]
    config = saved_config(trained)
    config.noisy_classifier.kinds = ("features",)
    config.noisy_classifier.test_times = (1, 301, 951)  # of the command, not kept
    with caplog.at_level("INFO"):
        noisy_classifier.run(experiment_of(config, trained))
    after = read(trained)["curves"]
    assert after["features"]["accuracies"] == before["features"]["accuracies"]
    assert after["wide_resnet"] == before["wide_resnet"]
    # Measured at other times, a curve stands alone.
    config.noisy_classifier.test_times = ()
    config.noisy_classifier.test_noise_levels = (0.05, 1.0)
    noisy_classifier.run(experiment_of(config, trained))
    assert set(read(trained)["curves"]) == {"features"}


@pytest.mark.parametrize(
    "kind, field, value, message",
    [
        (
            "features",
            "learning_rate",
            1e-3,
            r"features\.learning_rate: .*/features was trained with 0\.004, not 0\.001;"
            r" delete that folder",
        ),
        ("wide_resnet", "widen", 2, r"wide_resnet\.widen: .* trained with 1, not 2"),
        ("wide_resnet", "depth", 11, r"wide_resnet: depth 11 is not 6 n \+ 4"),
    ],
)
def test_a_folder_of_other_settings_is_refused(trained, kind, field, value, message):
    config = saved_config(trained)
    config.noisy_classifier.kinds = (kind,)
    config.noisy_classifier[kind][field] = value
    with pytest.raises(UserError, match=message) as raised:
        noisy_classifier.run(experiment_of(config, trained))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "process, field, value, message",
    [
        ("ddpm", "test_times", (1001,), r"test_times: time 1001 .* 1\.\.1000"),
        ("edm", "test_times", (0,), r"test_times: 0 has noise level 0"),
        ("edm", "test_times", (4, 4), r"test_times: 4 and 4 are the same"),
        ("ddpm", "test_noise_levels", (1e5,), r"test_noise_levels: 100000 is out"),
        ("ddpm", "kinds", (), r"kinds: empty; known: features, wide_resnet"),
        ("ddpm", "train_count", 7, r"train_count: 7 training .* 10 classes"),
        ("ddpm", "train_count", 1, r"images used of digits are of one class"),
        ("ddpm", "crop", -1, r"crop: -1 is not 0 or more"),
        ("ddpm", "tap", "out_99", r"tap: unknown 'out_99'.* out_1"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path, monkeypatch, process, field, value, message
):
    config = default_config(process=process)
    config.noisy_classifier[field] = value
    config.network.image_channels = 1

    def restored(self, step=None):
        return Trained(self.denoiser, {}, 3, (8, 8, 1), self.mesh)

    monkeypatch.setattr(Experiment, "trained", restored)
    with pytest.raises(UserError, match=message) as raised:
        noisy_classifier.run(experiment_of(config, tmp_path))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word, part",
    [
        ("kinds=wide_resnt", "unknown 'wide_resnt'. Did you mean 'wide_resnet'?"),
        ("test_times=(1,'a')", "test_times: 'a' is not a number"),
        ("test_noise_levels=0", "test_noise_levels: 0.0 is not above 0"),
        ("wide_resnet.momentum=1.", "momentum: 1.0 is not 0 or more, below 1"),
        ("features.epochs=0", "features.epochs: 0 is not 1 or more"),
    ],
)
def test_the_command_line_names_what_it_cannot_use(word, part, tmp_path):
    words = [
        "main",
        f"--config={run_tools.ROOT}/configs/digits.py:test",
        f"--workdir={tmp_path / 'run'}",
        f"--config.noisy_classifier.{word}",
    ]
    with pytest.raises(UserError) as raised:
        command_line.parse(words, main.define_flags)
    assert part in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "network, process, multipliers, tap, by",
    [
        ("unet", "ddpm", (1, 2, 2, 2), "out_6", "published"),
        ("unet", "edm", (1, 2, 2, 2), "out_7", "published"),
        ("unet", "ddpm", (1, 2), "out_4", "middle"),
    ],
)
def test_the_tap_is_the_probes_or_the_published(
    tmp_path, network, process, multipliers, tap, by
):
    config = default_config(network, process)
    config.network.channel_multipliers = multipliers
    config.network.attention = (False,) * len(multipliers)
    model = experiment_of(config).denoiser
    assert noisy_classifier.choose_tap(experiment_of(config, tmp_path), model) == (
        tap,
        by,
    )
    write_json(tmp_path / "probe.json", {"chosen": {"tap": "out_2"}})
    found = noisy_classifier.choose_tap(experiment_of(config, tmp_path), model)
    assert found == ("out_2", "probe.json")
    write_json(tmp_path / "probe.json", {"chosen": {"tap": "out_1+out_2"}})
    assert noisy_classifier.choose_tap(experiment_of(config, tmp_path), model) == (
        tap,
        by,
    )
    config.noisy_classifier.tap = "out_3"
    assert noisy_classifier.choose_tap(experiment_of(config, tmp_path), model) == (
        "out_3",
        "config",
    )


def test_full_runs_have_no_note(tmp_path):
    tested_on = {"data": "d", "class_count": 10, "process": {"name": "ddpm"}}
    shared = {
        "times": [1, 51],
        "noise_levels": [0.01, 0.2],
        "accuracies": [0.5, 0.25],
        "tested_on": tested_on,
    }
    wide = {
        "name": "WRN-28-10",
        "trained_by": {"depth": 28, "widen": 10, "epochs": 200},
    }
    head = {"name": "MLP", "trained_by": {"checkpoint_step": 7, "epochs": 15}}
    for kind, own in (("wide_resnet", wide), ("features", head)):
        folder = tmp_path / "noisy_classifier" / kind
        folder.mkdir(parents=True)
        write_json(folder / noisy_classifier_result.CURVE, shared | own)
        noisy_classifier_result.write(tmp_path, "noisy_classifier", kind)
        content = read(tmp_path)
        assert content["shown"]["note"] == ""
        assert content["step"] == (7 if kind == "features" else None)
    assert content["summary"] == (
        "MLP: 37.50 % over 2 noise levels, 50.00 % at 0.01; "
        "WRN-28-10: 37.50 % over 2 noise levels, 50.00 % at 0.01"
    )
    assert content["shown"]["rows"] == [[1, 0.01, 50, 50], [51, 0.2, 25, 25]]
