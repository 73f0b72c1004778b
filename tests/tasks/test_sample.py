"""Sampling: the same image for the same (seed, index), and the files it writes."""

import jax
import numpy as np
import pytest
from PIL import Image

from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.experiment.trained import Trained
from ddae_jax.runtime import parallel
from ddae_jax.settings import schema
from ddae_jax.tasks import sample
from ddae_jax.tasks.sample import paths
from tests.tools import compilations
from tests.tools import runs as run_tools
from tests.tools.experiments import experiment_of


def tiny_config(process="ddpm", **network):
    sampler = "ddim" if process == "ddpm" else "heun"
    config = schema.default(process=process, sampler=sampler)
    config.network.image_channels = 1
    config.network.channels = 32
    config.network.channel_multipliers = (1,)
    config.network.attention = (False,)
    config.network.blocks = 1
    return config


def draw(config, params, count, batch_size):
    config.sample.batch_size = batch_size
    denoiser = experiment_of(config).denoiser
    mesh = parallel.make_mesh()
    found = sample.batches(
        experiment_of(config), denoiser, params, (8, 8, 1), 10, mesh, count
    )
    return np.concatenate(list(found))


@pytest.mark.slow
@pytest.mark.parametrize("process", ["ddpm", "edm"])
def test_a_sample_depends_on_seed_and_index_alone(process):
    config = tiny_config(process)
    config.sampler.steps = 5
    # noise at every step, so that its order matters
    option = "eta" if process == "ddpm" else "churn"
    config.sampler[option] = 1.0
    init = jax.jit(lambda key: experiment_of(config).denoiser.init(key, (8, 8, 1)))
    params = init(jax.random.key(0))
    six = draw(config, params, 6, 6)
    four = draw(config, params, 6, 4)  # the second batch is cut
    assert six.shape == four.shape == (6, 8, 8, 1) and six.dtype == np.uint8
    # one grey level: XLA orders sums by batch size
    assert np.abs(six.astype(int) - four).max() <= 1
    assert np.abs(six[0].astype(int) - six[1]).max() > 1
    config.seed = 1
    assert np.abs(draw(config, params, 6, 6).astype(int) - six).max() > 1


def untrained(config):
    """What a task takes, with weights as they are drawn."""
    experiment = experiment_of(config)
    params = jax.jit(lambda key: experiment.denoiser.init(key, (8, 8, 1)))(
        jax.random.key(0)
    )
    mesh = parallel.make_mesh()
    return experiment, Trained(experiment.denoiser, params, 0, (8, 8, 1), mesh)


@pytest.mark.parametrize("process", ["ddpm", "edm"])
def test_strips_begin_and_end_at_samples(process):
    config = tiny_config(process)
    config.sampler.steps = 5
    config.sampler["eta" if process == "ddpm" else "churn"] = 1.0
    config.sample.frames = 4
    experiment, trained = untrained(config)
    samples = draw(config, trained.params, 4, 4).astype(int)
    ways = paths.trajectories(experiment, trained, 2, 10)
    assert ways.shape == (2, 4, 8, 8, 1)
    assert np.abs(ways[:, -1] - samples[:2]).max() <= 1
    assert np.abs(ways[:, 0].astype(int) - ways[:, -1]).max() > 1
    between = paths.interpolations(experiment, trained, 2, 10)
    assert between.shape == (2, 4, 8, 8, 1)
    assert np.abs(between[:, 0] - samples[::2]).max() <= 1
    assert np.abs(between[:, -1] - samples[1::2]).max() <= 1
    assert np.abs(between[:, 1].astype(int) - between[:, 2]).max() > 1


@pytest.mark.slow
def test_strips_are_written_where_asked_for_and_shown(pretrained_copy):
    flags = ["main", *run_tools.TINY, f"--workdir={pretrained_copy}"]
    few = ["--config.sample.count=2", "--config.sample.batch_size=2"]
    strips = ["--config.sample.trajectories=1", "--config.sample.interpolations=1"]
    main.run([*flags, "--task=sample,report", *few, *strips])
    report = (pretrained_copy / "report.html").read_text()
    for name in ("trajectory", "interpolation"):
        with Image.open(pretrained_copy / f"{name}.png") as image:
            assert image.width >= 4 * image.height
    assert "on the way to a sample" in report and "From one sample to" in report
    main.run([*flags, "--task=sample", *few])  # of other samples they are not left
    assert not (pretrained_copy / "trajectory.png").exists()


@pytest.mark.slow
def test_a_second_checkpoint_is_sampled_by_the_program_of_the_first(pretrained_copy):
    def draw_at(step, task):
        """Returns what was compiled for it."""
        flags = (
            *run_tools.TINY,
            f"--workdir={pretrained_copy}",
            f"--task={task}",
            f"--config.checkpoint.step={step}",
            "--config.sample.count=20",
            "--config.sample.batch_size=10",  # of no other test
            "--config.fid.count=20",
            "--config.sampler.steps=5",
        )
        with compilations.names() as compiled:
            main.main(["main", *flags])
        return compiled

    assert draw_at(2, "sample").count("generate") == 1
    assert draw_at(4, "sample") == []
    # FID's samples are the same, and its classifier is the same network.
    assert "generate" not in draw_at(2, "fid")
    assert draw_at(4, "fid") == []


@pytest.mark.slow
def test_eight_devices_draw_the_samples_of_one_and_write_every_file(pretrained_copy):
    workdir = pretrained_copy
    flags = (
        "--task=sample",
        f"--workdir={workdir}",
        "--config.sample.count=10",
        "--config.sample.batch_size=8",
        "--config.sample.grid=9",
        "--config.sampler.steps=5",
    )
    (workdir / "samples").mkdir()
    (workdir / "samples" / "999999.png").touch()  # of an earlier call
    run_tools.run(*flags, "--config.sample.png_folder=True")
    one = np.load(workdir / "samples.npz")["arr_0"]
    assert one.shape == (10, 8, 8, 1) and one.dtype == np.uint8
    files = sorted((workdir / "samples").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(10)]
    np.testing.assert_array_equal(np.asarray(Image.open(files[9])), one[9, ..., 0])
    with Image.open(workdir / "samples.png") as grid:  # 3 x 3, each 25 times as large
        assert grid.size == (3 * (8 * 25 + 2),) * 2
        assert (
            grid.getpixel((1, 1)) == grid.getpixel((25, 25)) == (one[0, 0, 0, 0],) * 3
        )
    run_tools.run(*flags, devices=8)
    eight = np.load(workdir / "samples.npz")["arr_0"]
    assert np.abs(eight.astype(int) - one).max() <= 1


@pytest.mark.slow
def test_a_batch_that_the_devices_cannot_share_is_one_line(pretrained_copy):
    errors = run_tools.run(
        "--task=sample",
        f"--workdir={pretrained_copy}",
        "--config.sample.batch_size=6",
        devices=4,
        status=2,
    )
    last = errors.strip().split("\n")[-1]
    assert last.startswith("error: config.sample.batch_size: 6 cannot be split over 4")


@pytest.mark.slow
def test_guidance_moves_the_samples_towards_their_class():
    config = schema.default(network="dit")
    config.network.image_channels = 1
    config.network.hidden_size = 32
    config.network.depth = 1
    config.network.heads = 2
    config.network.num_classes = 10
    config.network.learned_variance = False
    config.train.class_conditional = True
    config.sampler.steps = 5
    key = jax.random.key(0)
    params = experiment_of(config).denoiser.init(key, (8, 8, 1))
    # nothing is zero any more, so that the class matters
    params = jax.tree.map(lambda p: jax.random.normal(key, p.shape) / 4, params)
    plain = draw(config, params, 4, 4).astype(int)
    config.sample.guidance_scale = 3.0
    guided = draw(config, params, 4, 4)
    assert np.abs(guided - plain).max() > 1
    config.sample.guidance_interval = (1e6, 2e6)  # no noise level of the sampler
    np.testing.assert_array_equal(draw(config, params, 4, 4), plain)
    config.sample.label = 10
    with pytest.raises(UserError, match=r"config\.sample.label: 10 is no class"):
        draw(config, params, 4, 4)
    config.train.class_conditional = False
    with pytest.raises(UserError, match=r"config\.sample.guidance_scale: needs"):
        draw(config, params, 4, 4)


def test_mistaken_sampler_stops_pretraining_before_its_first_step(tmp_path):
    flags = ["--task=pretrain", "--config.sampler.steps=3"]
    errors = run_tools.run(*run_tools.TINY, f"--workdir={tmp_path}", *flags, status=2)
    assert errors.splitlines()[-1].startswith("error: config.sampler: ")
    assert not (tmp_path / "checkpoints").exists()
