"""Denoisers of latents: images in and images out, through the golden autoencoder."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ddae_jax
from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.features import encode as features
from ddae_jax.features.encode import Encoder, example_noise
from ddae_jax.features.latents import LatentEncoder, Latents, in_pieces, resize
from ddae_jax.models.vae import AutoencoderKL
from ddae_jax.runtime.random import stream
from ddae_jax.settings import command_line, saved, schema
from ddae_jax.tasks import sample
from tests.tools import golden_values
from tests.tools.experiments import experiment_of

CONFIG = pathlib.Path(__file__).parent.parent.parent / "configs" / "dit_transfer.py"
SCALE = 0.18215


def run(*flags):
    main.run(["main", *flags])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The golden DiT (latents 8x8x4), then the golden autoencoder (images 16x16)."""
    root = tmp_path_factory.mktemp("latents")
    for name, *extra in [
        ("dit_small", "--config.import_weights.heads=4"),
        ("vae_small",),
    ]:
        run(
            "--task=import",
            f"--workdir={root / 'w'}",
            f"--config.import_weights.path={golden_values.write_weights(root, name)}",
            *extra,
        )
    return root / "w"


@pytest.fixture(scope="module")
def model(workdir):
    return ddae_jax.load(workdir, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (12, 20), (5, 7)])
def test_resize_is_pillows(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    theirs = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    ours = jax.jit(resize, static_argnums=(1, 2))(image[None] / 127.5 - 1, *size)
    ours = np.rint((np.asarray(ours[0]) + 1) * 127.5).astype(int)
    difference = np.abs(ours - np.asarray(theirs, int))
    assert difference.max() <= (0 if size == (32, 32) else 1)


@pytest.mark.slow
def test_features_are_those_of_the_scaled_latents(model, images):
    assert model.latents.image_shape == (16, 16, 3)
    ours = model.features(images, tap="layer-1", noise_level=0.5)
    vae, params = model.latents.autoencoder, {"params": model.autoencoder}
    both = example_noise(stream(0, "model/features"), jnp.arange(5), (8, 8, 8))
    mean, log_variance = vae.apply(
        params, images / np.float32(127.5) - 1, method="encode"
    )
    x0 = (mean + jnp.exp(0.5 * log_variance) * both[..., :4]) * vae.scaling_factor
    time = model.denoiser.process.time_at(jnp.array([0.5]))[0]
    expected = features.extract(
        model.denoiser, model.params, x0, time, both[..., 4:], ["layer-1"]
    )["layer-1"]
    assert golden_values.relative_error(ours, expected) < 1e-4
    # Neither the batch nor the type plays a role; latents are taken as they are.
    one = model.features(images[:1] / 127.5 - 1, tap="layer-1", noise_level=0.5)
    np.testing.assert_allclose(one, ours[:1], rtol=1e-3, atol=1e-4)
    latents = model.features(np.asarray(x0), tap="layer-1", noise_level=0.5)
    assert latents.shape == ours.shape and np.abs(latents - ours).max() > 1e-3


def test_images_of_another_size_are_resized(model, images):
    pictures = [Image.fromarray(image[:8, :8]) for image in images]
    large = np.stack([np.asarray(p.resize((16, 16), 2)) for p in pictures])
    expected = model.features(large, tap="layer-0", noise_level=0.5)
    ours = model.features(images[:, :8, :8], tap="layer-0", noise_level=0.5)
    np.testing.assert_allclose(ours, expected, rtol=2e-2, atol=2e-2)


def test_samples_are_decoded(model, workdir):
    samples = model.sample(3, steps=3, label=3)
    assert samples.shape == (3, 16, 16, 3) and samples.dtype == np.uint8
    flags = ("sample.count=3", "sample.label=3", "sampler.steps=3")
    settings = (f"--config.{flag}" for flag in flags)
    run("--task=sample", f"--workdir={workdir}", *settings)
    with np.load(workdir / "samples.npz") as saved:
        difference = np.abs(saved["arr_0"].astype(int) - samples)
    assert difference.max() <= 1


def test_photos_are_mapped_in_windows_of_the_autoencoders_size(workdir, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    flags = (
        *("parts=maps", "taps=layer-0,layer-1", "noise_level=0.5", "clusters=3"),
        f"images={tmp_path}",
    )
    settings = (f"--config.dense.{flag}" for flag in flags)
    run("--task=dense", f"--workdir={workdir}", *settings)
    text = (workdir / "dense.txt").read_text()
    assert "maps: windows: 50" in text  # 32x50 pixels in windows of 16: 5x10
    found = json.loads((workdir / "dense.json").read_text())["maps"]
    assert all(0 < share <= 1 for tap in found.values() for share in tap.values())


def test_transfer_is_probed_end_to_end(workdir):
    run(f"--config={CONFIG}:test", f"--workdir={workdir}")
    found = json.loads((workdir / "probe.json").read_text())
    assert found["data"] == "digits" and found["baselines"] == {}
    assert found["chosen"]["tap"] == "layer-0" and found["chosen"]["time"] == 121
    assert 0 <= found["chosen"]["test"] <= 1
    # Imported weights go on to any data set, whatever config came between.
    words = [f"--workdir={workdir}", "--task=probe", "--config.data.name=cifar10"]
    config = command_line.parse(["main", *words], main.define_flags).settings
    assert config.data.name == "cifar10"


def test_pieces_are_the_whole():
    one, other = jnp.arange(12.0).reshape(6, 2), jnp.ones((6, 2))
    for size in (1, 2, 4, 6, 7):
        found = in_pieces(lambda a, b: a + b, size, one, other)
        np.testing.assert_array_equal(found, one + other)


def test_encoders_say_which_noise_they_take(model):
    encoder = Encoder(model.denoiser, ("layer-0",))
    assert encoder.noise_shape((16, 16, 3)) == (16, 16, 3)
    latent = LatentEncoder(encoder, model.latents)
    assert latent.noise_shape((64, 64, 3)) == (8, 8, 8)


def test_export_brings_the_autoencoder(model, workdir, images, tmp_path):
    run("--task=export", f"--workdir={workdir}", f"--config.export.path={tmp_path}/hub")
    again = ddae_jax.load(tmp_path / "hub", batch_size=4)
    np.testing.assert_array_equal(
        again.features(images, tap="layer-0", noise_level=0.5),
        model.features(images, tap="layer-0", noise_level=0.5),
    )
    assert "dit_small.safetensors" in (tmp_path / "hub" / "README.md").read_text()


def test_the_mean_of_the_posterior_on_request(model, workdir, images):
    config = saved.read(workdir)
    config.autoencoder.sample_posterior = False
    config.autoencoder.scale = 2.0
    config.autoencoder.folder = str(workdir)
    config.autoencoder.batch_size = 1
    section = schema.build(config).autoencoder
    path = autoencoder.find(section, "elsewhere")
    latents, params = autoencoder.load(section, "float32", path, (8, 8, 4))
    x0 = latents.encode(params, images[:1] / 127.5 - 1, jnp.full((1, 8, 8, 4), 9.0))
    mean, _ = latents.autoencoder.apply(
        {"params": params}, images[:1] / 127.5 - 1, method="encode"
    )
    np.testing.assert_allclose(x0, 2 * mean, rtol=1e-5, atol=1e-5)
    decoded = latents.decode(params, x0)
    assert decoded.shape == (1, 16, 16, 3) and decoded.dtype == jnp.uint8


def test_mistakes_are_one_line(model, workdir, images, tmp_path):
    config = saved.read(workdir)
    trained = experiment_of(config, workdir).trained()
    config.autoencoder.folder = str(tmp_path)
    alone = dataclasses.replace(
        model,
        trained=dataclasses.replace(model.trained, latents=None, autoencoder=None),
    )
    small = AutoencoderKL(widths=(32, 64), blocks=1)
    for call, reason in [
        (lambda: model.features(images[:, :9], "layer-0", 0.1), r"takes \(n, 16, 16"),
        (lambda: model.features(images[..., :2], "layer-0", 0.1), r"\(n, 8, 8, 4"),
        (lambda: model.denoise(images / 255.0, 0.1), r"takes \(n, 8, 8, 4"),
        (lambda: alone.features(images, "layer-0", 0.1), r"takes \(n, 8, 8, 4"),
        (lambda: alone.sample(1), "need their autoencoder: --task=import"),
        (
            lambda: autoencoder.find(config.autoencoder, workdir),
            r"folder: no model\.safetensors",
        ),
        (lambda: Latents(small, (8, 8, 16)), "latents of 16 channels"),
        (lambda: Latents(small, (8, 8, 4), 0.0), "must be positive"),
        (
            lambda: next(
                sample.batches(
                    experiment_of(saved.read(workdir), workdir),
                    trained.denoiser,
                    trained.params,
                    (8, 8, 4),
                    10,
                    trained.mesh,
                    1,
                )
            ),
            "latents of 4 channels need their autoencoder",
        ),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            call()
        assert "\n" not in str(error.value)
