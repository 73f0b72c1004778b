"""The task finetune: what it leaves, goes on from, and refuses."""

import json
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.data import augment
from ddae_jax.data import source as data_source
from ddae_jax.errors import UserError
from ddae_jax.experiment import Experiment
from ddae_jax.features.encode import example_noise, extract
from ddae_jax.heads import linear
from ddae_jax.runtime import log
from ddae_jax.runtime.random import stream
from ddae_jax.settings import config_files, saved, schema
from ddae_jax.tasks import finetune
from ddae_jax.tasks.finetune import saved as finetune_saved
from ddae_jax.train import folders
from ddae_jax.weights import folder as weights_folder
from tests.conftest import ROOT
from tests.tools import golden_values
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of

CONFIG = "configs/finetune.py"
TINY = (
    f"--config={CONFIG}:digits+test",
    *run_tools.TINY[1:-1],
    "--config.finetune.label_smoothing=0",
)
EPOCHS = "--config.finetune.epochs=4"
HEAD = {"kernel": jnp.zeros((32, 10)), "bias": jnp.zeros(10)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Pre-trained, then fine-tuned without an interruption, by the command line."""
    folder = tmp_path_factory.mktemp("run")
    main.main(["main", *TINY, EPOCHS, f"--workdir={folder}"])
    return folder


def weights(workdir, output="finetune"):
    return weights_folder.read_tensors(workdir / output / weights_folder.FILE)


def without_finetuning(workdir, target):
    ignored = shutil.ignore_patterns("finetune*")
    return shutil.copytree(workdir, target, ignore=ignored)


def saved_config(workdir):
    return saved.read(workdir)


@pytest.mark.slow
def test_the_command_line_leaves_results_that_the_report_shows(workdir):
    result = json.loads((workdir / "finetune.json").read_text())
    assert result["step"] == 4 and not result["from_scratch"]
    assert (result["tap"], result["layers"]) == ("out_2", 7)
    assert result["noise_level"] == pytest.approx(0.05, rel=0.02)
    assert [row["epoch"] for row in result["curve"]] == [1, 2, 3, 4]
    assert result["test"] == result["curve"][-1]["test_accuracy"]
    assert result["test"] * 32 == pytest.approx(round(result["test"] * 32), abs=1e-4)
    assert result["protocol"]["train_images"] == 64
    assert result["protocol"]["flip"] is False and result["protocol"]["crop"] == 0
    losses = [row["loss"] for row in result["curve"]]
    assert losses[-1] < losses[0]
    assert (workdir / "finetune.png").read_bytes().startswith(b"\x89PNG")
    assert "test accuracy" in (workdir / "finetune.txt").read_text()
    assert "Fine-tuning" in (workdir / "report.html").read_text()
    names = set(weights(workdir))
    assert {"head/kernel", "head/bias", "network/out_2/residual/conv1/kernel"} <= names
    assert not any(name.startswith(("network/final", "network/norm")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("SIGTERM", 0),
        pytest.param("SIGKILL", -9, marks=pytest.mark.campaign),
        pytest.param("SIGINT", 130, marks=pytest.mark.campaign),
    ],
)
def test_stopped_and_gone_on_is_bitwise_the_same(workdir, tmp_path, number, status):
    again = without_finetuning(workdir, tmp_path / "again")
    flags = (*TINY, EPOCHS, f"--workdir={again}", "--task=finetune")
    process = run_tools.start(*flags)
    deadline = time.monotonic() + 600
    while len(log.read_metrics(again / "finetune")) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.Signals[number])
    _, errors = process.communicate()
    assert process.returncode == status and "Traceback" not in errors
    assert not (again / "finetune.json").exists()
    config = saved_config(again)
    finetune.run(experiment_of(config, again))
    ours, theirs = weights(again), weights(workdir)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    rows = [log.read_metrics(folder / "finetune") for folder in (again, workdir)]
    one, other = map(run_tools.without_times, rows)
    assert one == other
    # Other settings are another run.
    config.finetune.mixup = 0.5
    with pytest.raises(UserError, match=r"finetune\.mixup=0\.0, not 0\.5; name"):
        finetune.run(experiment_of(config, again))


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one(workdir, tmp_path):
    again = without_finetuning(workdir, tmp_path / "again")
    flags = (*TINY, EPOCHS, f"--workdir={again}", "--task=finetune")
    run_tools.run(*flags, "--config.mesh.fsdp=2", devices=2)
    for ours, theirs in zip(
        *(log.read_metrics(folder / "finetune") for folder in (again, workdir)),
        strict=True,
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_fine_tuned_weights_come_back(workdir):
    config = saved_config(workdir)
    read = finetune_saved.load_finetuned(experiment_of(config, workdir), "finetune")
    denoiser, params = read.trained.denoiser, read.trained.params
    assert (read.tap, read.class_names) == ("out_2", tuple(map(str, range(10))))
    assert (read.trained.step, read.image_shape) == (4, (8, 8, 1))
    shapes = jax.eval_shape(lambda: denoiser.init(jax.random.key(0), (8, 8, 1)))
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    result = json.loads((workdir / "finetune.json").read_text())
    test = experiment_of(config).source("test")
    key = stream(config.seed, "finetune/test_noise")
    indices = jnp.arange(32)
    noise = example_noise(key, indices, (8, 8, 1))
    x0 = augment.to_float(jnp.asarray(test.images[:32]))

    @jax.jit
    def logits(params):
        features = extract(denoiser, params, x0, read.time, noise, (read.tap,))
        return linear.logits(read.head, features[read.tap])

    correct = np.asarray(logits(params)).argmax(1) == test.labels[:32]
    assert correct.mean() == pytest.approx(result["test"], abs=1 / 32 + 1e-6)
    with pytest.raises(UserError, match="nothing is fine-tuned there"):
        finetune_saved.load_finetuned(experiment_of(config, workdir), "finetune_other")


def test_from_scratch_and_the_checkpoint_start_from_other_weights(
    workdir, tmp_path, monkeypatch
):
    begun = {}

    def fit(folder, trainer, plan, hooks):
        begun[folder.name] = trainer.network, trainer.recipe, trainer.feed
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune.loop, "fit", fit)
    config = saved_config(workdir)
    for output, scratch in (("finetune_a", False), ("finetune_scratch", True)):
        config.finetune.output, config.finetune.from_scratch = output, scratch
        config.finetune.label_fraction = 0.5
        with pytest.raises(KeyboardInterrupt):
            finetune.run(experiment_of(config, workdir))
    (ours, recipe, feed), (blank, plain, _) = begun.values()
    trained = experiment_of(config, workdir).trained().params
    initial = experiment_of(config, workdir).untrained().params
    for network, whole in ((ours, trained), (blank, initial)):
        assert "final" in whole and "final" not in network
        kernel = network["image"]["kernel"]
        np.testing.assert_array_equal(kernel, whole["image"]["kernel"])
    assert np.any(ours["image"]["kernel"] != blank["image"]["kernel"])
    counts = np.bincount(feed.source.labels, minlength=10)
    first = experiment_of(config).source("train").labels[:64]
    half = [max(round(0.5 * n), 1) for n in np.bincount(first, minlength=10)]
    assert counts.tolist() == half

    def rate(step):
        params = {"network": ours, "head": HEAD}
        ones = jax.tree.map(jnp.ones_like, params)
        updates, _ = step.optimizer.update(ones, step.optimizer.init(params), params)
        bottom = updates["network"]["image"]["bias"][0]
        return bottom / updates["head"]["bias"][0]

    # From scratch, all layers learn alike.
    rates = [jax.jit(rate, static_argnums=0)(step) for step in (recipe, plain)]
    np.testing.assert_allclose(rates[0], 0.9**7, rtol=1e-4)
    np.testing.assert_allclose(rates[1], 1, rtol=1e-4)
    with pytest.raises(UserError, match="no checkpoint; run --task=pretrain"):
        finetune._start(
            experiment_of(saved_like(config, scratch=False), tmp_path), feed.source
        )
    without = saved_like(config, scratch=True)
    assert finetune._start(experiment_of(without, tmp_path), feed.source).step == 0


def saved_like(config, scratch):
    copy = config.copy_and_resolve_references()
    copy.finetune.from_scratch = scratch
    return copy


@pytest.mark.slow
def test_a_run_that_diverged_makes_way_for_a_lower_rate(workdir, tmp_path):
    again = without_finetuning(workdir, tmp_path / "again")
    config = saved_config(again)
    config.finetune.epochs = 1
    config.finetune.learning_rate = 1e6
    config.finetune.warmup_epochs = 0
    with pytest.raises(UserError, match=r"loss .* at step \d+: not finite.*rate$") as e:
        finetune.run(experiment_of(config, again))
    assert "\n" not in str(e.value)
    config.finetune.learning_rate = 1e-3
    finetune.run(experiment_of(config, again))
    assert not folders.has_diverged(again / "finetune")
    rows = log.read_metrics(again / "finetune")
    assert [row["step"] for row in rows] == [4]
    assert rows[0]["learning_rate"] == pytest.approx(
        1e-3 * (1 - 0.5**0.5) / 2, rel=1e-5
    )


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("tap", "out_9", r"config\.finetune\.tap: unknown 'out_9'"),
        (
            "drop_path",
            0.1,
            r"network unet has none; these have it: .*dit, lightningdit",
        ),
        ("dropout", 1.5, r"finetune\.dropout: 1\.5 is not 0 or more, below 1"),
        ("time", 0.0, r"finetune\.time: time 0"),
        ("train_count", 7, r"finetune\.train_count: 7 training .* 10 classes"),
        ("output", "probe", r"finetune\.output: 'probe' is not of the form"),
        ("label_fraction", 0.0, r"finetune\.label_fraction: 0\.0 is not above 0"),
        ("layer_decay", 1.5, r"finetune\.layer_decay: 1\.5 is not above 0, at most 1"),
        ("drop_path", 1.0, r"finetune\.drop_path: 1\.0 is not 0 or more, below 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(workdir, field, value, message):
    config = saved_config(workdir)
    config.finetune[field] = value
    with pytest.raises(UserError, match=message) as error:
        schema.build(config)
        finetune.run(experiment_of(config, workdir))
    assert "\n" not in str(error.value)


def test_images_of_one_class_are_refused(workdir, monkeypatch):
    config = saved_config(workdir)
    train = experiment_of(config).source("train")
    one = data_source.subset(train, np.flatnonzero(train.labels == 3))
    monkeypatch.setattr(Experiment, "source", lambda *_: one)
    with pytest.raises(UserError, match="of one class; a classifier needs two"):
        finetune.run(experiment_of(config, workdir))


def test_every_variant_names_a_tap_of_its_network_and_a_published_time():
    for variant in command_line_variants():
        config = config_files.load(str(ROOT / f"{CONFIG}:{variant}"))
        schema.build(config)
        process = schema.build(config).process
        if config.finetune.time is not None:
            process.official_time(config.finetune.time)
        if variant.endswith("_dit"):
            assert config.finetune.tap == "layer-13"
            assert hasattr(schema.build(config).network, "drop_path")


def command_line_variants():
    with pytest.raises(UserError) as error:
        config_files.load(str(ROOT / f"{CONFIG}:unknown"))
    return str(error.value).split("Known: ")[1].split(", ")


@pytest.mark.slow
def test_a_denoiser_of_latents_is_trained_through_its_autoencoder(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    for name, *extra in [
        ("dit_small", "--config.import_weights.heads=4"),
        ("vae_small",),
    ]:
        path = golden_values.write_weights(tmp_path, name)
        flags = ("--task=import", f"--config.import_weights.path={path}", *extra)
        main.run(["main", workdir, *flags])
    settings = {"batch_size": 8, "train_count": 16, "test_count": 8, "epochs": 1}
    settings |= {"drop_path": 0.5, "mixup": 0.8, "cutmix": 1.0, "time": 121}
    settings |= {"tap": "layer-1", "crop": 1, "flip": True, "output": "finetune_digits"}
    flags = [f"--config.finetune.{key}={value}" for key, value in settings.items()]
    data = ("--config.data.name=digits", "--config.data.channels=3")
    main.run(["main", workdir, "--task=finetune", *data, *flags])
    folder = tmp_path / "run"
    result = json.loads((folder / "finetune_digits.json").read_text())
    assert (result["tap"], result["time"], result["layers"]) == ("layer-1", 121, 3)
    before = experiment_of(saved_config(folder), folder).trained().params
    after = weights(folder, "finetune_digits")
    np.testing.assert_array_equal(
        after["network/positions/table"], before["positions"]["table"]
    )
    kernel = "network/block_1/mlp/linear1/kernel"
    assert np.any(after[kernel] != before["block_1"]["mlp"]["linear1"]["kernel"])
    assert not any(name.startswith("network/block_2") for name in after)
