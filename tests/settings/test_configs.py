"""Every config: its published values, and its `:test` variant through all its tasks."""

import ast
import json

import jax
import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.denoiser import Denoiser
from ddae_jax.errors import UserError
from ddae_jax.experiment.memory import training_bytes
from ddae_jax.models import NETWORKS
from ddae_jax.settings import command_line, schema
from ddae_jax.tasks import TASKS
from tests.tools import data_files
from tests.tools import networks as network_tools
from tests.tools.configs import CONFIGS, load

TESTED = (
    "digits:test",
    "fashion_mnist:test",
    "fashion_mnist_16:unet+sc+csd+test",
    "cifar10:edm_ddpmpp_aug+test",
    "cifar10:edm2_e+test",
    "cifar10:uvit_s+test",
    "cifar100:test",
    "tiny_imagenet:test",
    "image_folder:test",
    "imagenet_latent:lightningdit_b+sc+csd+test",
)


WRITERS = {
    "fashion_mnist": data_files.write_fashion_mnist,
    "fashion_mnist_16": data_files.write_fashion_mnist,
    "cifar10": lambda folder: data_files.write_cifar(folder, "cifar10", per_batch=12),
    "cifar100": lambda folder: data_files.write_cifar(
        folder, "cifar100", per_batch=400
    ),
    "tiny_imagenet": data_files.write_tiny_imagenet,
    "image_folder": data_files.write_image_folder,
}


def _marked(given):
    # docs/test_commands_run.py runs digits, cifar10 and image_folder.
    here = ("cifar10:uvit", "tiny_imagenet", "imagenet_latent")
    marks = pytest.mark.slow if given.startswith(here) else pytest.mark.campaign
    return pytest.param(given, marks=marks)


@pytest.mark.parametrize("given", map(_marked, TESTED))
def test_test_variant_runs_all_its_tasks(given, tmp_path):
    name, _, variant = given.partition(":")
    data, workdir = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    if name in WRITERS:
        WRITERS[name](data)
    main.main(
        [
            "main",
            f"--config={CONFIGS / name}.py:{variant}",
            f"--workdir={workdir}",
            f"--config.data.folder={data if name in WRITERS else ''}",
        ]
    )
    config = json.loads((workdir / "config.json").read_text())
    assert config["tasks"] == ["pretrain", "sample", "probe", "report"]
    assert set(config["tasks"]) <= set(TASKS)
    shape = json.loads((workdir / "data.json").read_text())["image_shape"]
    with np.load(workdir / "samples.npz") as samples:
        assert samples["arr_0"].shape == (config["sample"]["count"], *shape)
        assert samples["arr_0"].dtype == np.uint8
    probe = json.loads((workdir / "probe.json").read_text())
    assert set(probe["baselines"]) == {"untrained", "pixels"}
    assert 0 <= probe["chosen"]["test"] <= 1
    assert "</html>" in (workdir / "report.html").read_text()


def test_every_config_is_tested():
    names = {given.partition(":")[0] for given in TESTED}
    names.add("dit_transfer")  # test_latents: its denoiser must be there before
    names.add("finetune")  # test_finetune: its tasks are others
    names |= {"reid_demo", "market1501", "cuhk03"}  # test_reid: likewise
    assert names == {path.stem for path in CONFIGS.glob("*.py")}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_config_is_documented_locked_and_valid(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    for word in (f"--config=configs/{name}.py", "Hardware", "ime", "Expected result"):
        assert word in text
    config = load(name)
    # Fine-tuning runs in the workdir of the pre-training, so that names it.
    assert config.name == ("cifar10" if name == "finetune" else name)
    assert config.is_locked
    schema.build(config)
    with pytest.raises(UserError, match=r"unknown 'tset'.*Did you mean '\w*test'"):
        load(f"{name}:tset")


def variants_of(name):
    """As the error about an unknown one lists them."""
    with pytest.raises(UserError) as raised:
        load(f"{name}:?")
    known = str(raised.value).split("Known: ")[1].split(", ")
    return [variant for variant in known if variant != "test"]


GIVEN = [
    f"{path.stem}:{variant}"
    for path in sorted(CONFIGS.glob("*.py"))
    for variant in ("", *variants_of(path.stem))
]


@pytest.mark.slow
@pytest.mark.parametrize("given", GIVEN)
def test_every_variant_has_a_test_form(given):
    name, _, variant = given.partition(":")
    whole, test = load(given), load(f"{given}+test" if variant else f"{name}:test")
    assert test.variant == (f"{variant}+test" if variant else "test")
    assert test.is_locked and test.data.image_size == 8
    assert test.train.steps <= 4 and test.sampler.name == whole.sampler.name
    settings = schema.build(test)
    assert settings.network == schema.build(whole).network.tiny()
    assert settings.process == schema.build(whole).process
    channels = settings.network.image_channels or 3
    denoiser = Denoiser(settings.network, settings.process)
    assert denoiser.parameter_count((8, 8, channels)) < 2_000_000


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_shrinks(network):
    config = schema.default(network)
    taps = tuple(schema.build(config).network.tap_paths())
    config.probe.taps, config.finetune.tap = taps, taps[-1]
    schema.shrink(config)
    settings = schema.build(config)
    tiny = tuple(settings.network.tap_paths())
    assert settings.probe.taps[0] == tiny[0] and settings.probe.taps[-1] == tiny[-1]
    assert settings.finetune.tap == tiny[-1] and set(settings.probe.taps) <= set(tiny)
    shapes = network_tools.shapes_of(settings.network, (8, 8, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 2_000_000


# reference/ddae.md: steps and warm-up of the epochs there, parameters in millions
PUBLISHED = {
    "ddpm": (512, 195_312, 1_269, 4e-4, 0.9999, 0.1, 35.746307, (1, 11, 21)),
    "ddpmpp": (256, 390_625, 2_539, 4e-4, 0.9999, 0.1, 56.5, (1, 11, 21)),
    "edm_ddpm": (512, 195_312, 19_531, 4e-4, 0.9993, 0.13, 35.7, (3, 4, 5)),
    "edm_ddpmpp": (256, 390_625, 39_062, 4e-4, 0.9993, 0.13, 56.5, (3, 4, 5)),
    "edm_ddpmpp_aug": (512, 390_625, 19_531, 8e-4, 0.9993, 0.13, 56.5, (3, 4, 5)),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_cifar10_has_the_published_values(variant):
    batch, steps, warmup, rate, cap, dropout, parameters, times = PUBLISHED[variant]
    config = load(f"cifar10:{variant}")
    assert (config.train.batch_size, config.train.steps) == (batch, steps)
    assert config.train.warmup_steps == warmup
    assert config.train.learning_rate == rate
    assert config.train.ema_decay == cap and config.train.ema_warmup
    assert config.train.clip_norm == 1 and config.train.flip
    assert config.network.dropout == dropout
    assert config.probe.times == config.probe.taps == ()
    assert schema.build(config).process.probe_times == times
    assert config.sampler.steps == (18 if variant.startswith("edm") else 100)
    augmented = variant.endswith("aug")
    assert config.train.augment_probability == (0.12 if augmented else 0)
    assert config.network.augment_channels == (9 if augmented else 0)
    assert config.train.keep_every % config.train.checkpoint_every == 0
    denoiser = Denoiser(schema.build(config).network, schema.build(config).process)
    count = denoiser.parameter_count((32, 32, 3)) / 1e6
    assert count == pytest.approx(parameters, abs=0.06 if parameters < 40 else 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["16", "32", "64", "128"])
def test_image_folder_has_a_small_network_for_every_size(size):
    config = load(f"image_folder:{size}")
    settings = schema.build(config)
    assert config.data.image_size == int(size)
    denoiser = Denoiser(settings.network, settings.process)
    assert denoiser.parameter_count((int(size), int(size), 3)) < 2e6
    # The last level, where attention is, is of 8x8.
    levels = config.network.attention
    assert int(size) >> (len(levels) - 1) == 8 and levels[-1] and not any(levels[:-1])
    shape = (int(size), int(size), 3)
    assert sum(training_bytes(denoiser, shape, config.train.batch_size)) < 3e9


def test_a_folder_names_its_run():
    def parsed(*words):
        argv = ["main", f"--config={CONFIGS / 'image_folder.py'}", *words]
        return command_line.parse(argv, main.define_flags)

    command = parsed("--config.data.folder=/photos/My birds (2024)/")
    assert command.settings.name == "My_birds_2024_"
    assert command.workdir == "runs/My_birds_2024_"
    command = parsed("--config.data.folder=/photos/birds", "--config.name=mine")
    assert command.workdir == "runs/mine"
    assert parsed("--config.data.folder=/").settings.name == "image_folder"
    assert parsed().settings.name == "image_folder"


def test_cifar10_without_a_variant_is_ddpm():
    assert load("cifar10").variant == "ddpm"
    assert load("cifar10").to_dict() == load("cifar10:ddpm").to_dict()
