"""Latents of a data set, and a denoiser trained on them, by the command line."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddae_jax import main
from ddae_jax.data import latents as latents_data
from ddae_jax.data import sources
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.features.encode import example_noise
from ddae_jax.runtime.log import read_metrics
from ddae_jax.settings import saved
from ddae_jax.tasks import encode, explore
from tests.tools import golden_values
from tests.tools.configs import CONFIGS
from tests.tools.experiments import experiment_of

CONFIG = f"--config={CONFIGS / 'digits.py'}:test"
IMAGES = ("--config.data.name=digits", "--config.data.channels=3")
NETWORK = (
    "--config.network.name=dit",
    "--config.network.patch_size=2",
    "--config.network.hidden_size=32",
    "--config.network.depth=2",
    "--config.network.heads=2",
    "--config.network.num_classes=0",
    "--config.network.learned_variance=False",
    "--config.train.flip=True",
)


def run(workdir, *flags):
    main.run(["main", f"--workdir={workdir}", *flags])


def encode_digits(workdir, vae, *flags):
    settings = ("--config.encode.file_images=500", "--config.encode.batch_size=100")
    run(workdir, CONFIG, "--task=encode", *vae, *IMAGES, *settings, *flags)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The golden autoencoder: 8x8x3 images, 4x4x4 latents."""
    root = tmp_path_factory.mktemp("encode")
    path = golden_values.write_weights(root, "vae_small")
    run(root / "vae", "--task=import", f"--config.import_weights.path={path}")
    return root


@pytest.fixture(scope="module")
def vae(root):
    return (f"--config.autoencoder.folder={root / 'vae'}",)


@pytest.fixture(scope="module")
def folder(root, vae):
    encode_digits(root / "encoded", vae, "--config.encode.normalise=channels")
    return root / "encoded" / "latents"


@pytest.fixture(scope="module")
def trained(root, vae, folder):
    """Trained on the latents, with pictures on the way."""
    flags = (*vae, "--config.data.name=latents", f"--config.data.folder={folder}")
    run(root / "run", CONFIG, "--task=pretrain,sample", *NETWORK, *flags)
    return root / "run"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_moments_are_the_autoencoders_of_the_image_and_its_mirror_image(root, folder):
    network = autoencoder.read_network(root / "vae" / "autoencoder", "float32")
    latents, params = autoencoder.load(
        experiment_of(saved.read(root / "encoded")).settings.autoencoder,
        "float32",
        root / "vae" / "autoencoder",
        (4, 4, 4),
    )
    assert latents.autoencoder == network
    for split, count in (("train", 1297), ("test", 500)):
        source = sources.load("latents", split, folder=str(folder))
        images = sources.load("digits", split, image_size=8, channels=3)
        assert len(source) == count and source.image_shape == (4, 4, 4)
        np.testing.assert_array_equal(source.labels, images.labels)
        assert source.class_names == images.class_names
        indices = np.array([0, 3, count - 1])
        x0 = images.read(indices) / np.float32(127.5) - 1
        for copy, shown in enumerate((x0, x0[:, :, ::-1])):
            mean, log_variance = network.apply(
                {"params": params}, jnp.asarray(shown), method="encode"
            )
            rows = source.read_rows(indices)[:, copy]
            assert rows.dtype == np.float16
            np.testing.assert_allclose(rows[..., :4], mean, rtol=2e-3, atol=1e-3)
            std = np.exp(0.5 * np.asarray(log_variance))
            np.testing.assert_allclose(rows[..., 4:], std, rtol=2e-3)


def test_channels_are_normalised_over_the_training_set(folder):
    source = sources.load("latents", "train", folder=str(folder))
    keys = jax.random.split(jax.random.key(0), 2)
    rows = jnp.asarray(source.images)
    both = [source.form.drawn(keys[i], rows, jnp.full(len(rows), i)) for i in (0, 1)]
    drawn = np.concatenate(both)
    np.testing.assert_allclose(drawn.mean((0, 1, 2)), 0, atol=0.02)
    np.testing.assert_allclose(drawn.std((0, 1, 2)), 1, atol=0.02)


def test_an_interrupted_encoding_goes_on(root, vae, folder, monkeypatch):
    whole, write = contents(folder), latents_data.write_array
    flags = ("--config.encode.normalise=channels",)

    def interrupted(path, array):
        if path.name == "train_00001.npy":
            raise KeyboardInterrupt
        write(path, array)

    workdir = root / "interrupted"
    monkeypatch.setattr(latents_data, "write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_digits(workdir, vae, *flags)
    with pytest.raises(UserError, match="unfinished"):
        sources.load("latents", "train", folder=str(workdir / "latents"))
    kept = workdir / "latents" / "train_00000.npy"
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(latents_data, "write_array", write)
    encode_digits(workdir, vae, *flags)
    assert contents(workdir / "latents") == whole
    assert kept.stat().st_mtime_ns == before
    # A damaged file is made anew, the others are left.
    damaged = workdir / "latents" / "test_00000.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    encode_digits(workdir, vae, *flags)
    assert contents(workdir / "latents") == whole
    assert kept.stat().st_mtime_ns == before


def test_without_channels_the_scale_is_the_autoencoders(root, vae, folder):
    """Of what is there already: the moments are not encoded again."""
    workdir = root / "scaled"
    shutil.copytree(folder, workdir / "latents")
    before = (workdir / "latents" / "train_00000.npy").stat().st_mtime_ns
    encode_digits(workdir, vae)
    encoded = latents_data.read(workdir / "latents")
    assert encoded.scale == 0.18215 and encoded.shift == ()
    assert (workdir / "latents" / "train_00000.npy").stat().st_mtime_ns == before


@pytest.mark.slow
def test_samples_are_decoded_from_what_was_trained(trained, folder):
    with np.load(trained / "samples.npz") as samples:
        shape = samples["arr_0"].shape
    assert shape[1:] == (8, 8, 3)
    assert list((trained / "images").glob("step_*.png"))
    encoded = latents_data.read(folder)
    model = experiment_of(saved.read(trained), trained).trained()
    assert model.image_shape == (4, 4, 4)
    assert model.latents.scale == encoded.scale and len(encoded.scale) == 4
    assert model.latents.shift == encoded.shift
    # What an image is encoded to is what stands in the folder, and comes back.
    images = sources.load("digits", "train", image_size=8, channels=3).read([0, 1, 2])
    mean_only = dataclasses.replace(model.latents, sample_posterior=False)
    x0 = mean_only.encode(
        model.autoencoder, images / np.float32(127.5) - 1, jnp.zeros((3, 4, 4, 4))
    )
    source = sources.load("latents", "train", folder=str(folder))
    np.testing.assert_allclose(x0, source.read([0, 1, 2]), rtol=5e-3, atol=5e-3)
    plain = model.latents.autoencoder.apply(
        {"params": model.autoencoder}, images / np.float32(127.5) - 1
    )
    decoded = model.latents.decode(model.autoencoder, x0) / 127.5 - 1
    np.testing.assert_allclose(decoded, np.clip(plain, -1, 1), atol=0.02)


@pytest.mark.slow
def test_images_of_the_same_set_are_probed(trained, vae):
    run(trained, "--task=probe,report", *vae, *IMAGES, "--config.data.folder=")
    probe = json.loads((trained / "probe.json").read_text())
    assert probe["data"] == "digits" and 0 <= probe["chosen"]["test"] <= 1
    assert "digits (latents)" in (trained / "report.html").read_text()


@pytest.mark.slow
def test_images_of_the_same_set_are_explored(trained):
    """They are encoded, and what the denoiser sees and makes of them is decoded."""
    data = dict(name="digits", folder="", channels=3, image_size=8)
    experiment = (
        experiment_of(saved.read(trained), trained)
        .changed("data", **data)
        .changed("explore", references=20, count=2)
    )
    explorer = explore.open_explorer(experiment)
    image = explorer.chosen.source.read([1])[0]
    shown = explorer.explored(image, 0, explorer.cell.tap)
    latents, params = explorer.trained.latents, explorer.trained.autoencoder
    key, first = experiment.stream("explore/noise"), jnp.zeros(1, int)
    of_posterior = example_noise(key, first, (4, 4, 8))[..., :4]
    x0 = latents.encode(params, image[None] / np.float32(127.5) - 1, of_posterior)
    decoded = np.asarray(latents.decode(params, x0)[0], int)
    away = np.abs(decoded - shown.noisy).mean()
    assert away < 3 and shown.denoised.shape == (8, 8, 3)
    assert all(found.clusters.shape == (2, 2) for found in shown.maps.values())
    noisier = explorer.explored(image, len(explorer.levels) - 1, explorer.cell.tap)
    assert np.abs(decoded - noisier.noisy).mean() > 3 * away


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [("--task=probe",), ("--task=fid", "--config.fid.features=classifier")]
)
def test_latents_are_no_images_to_measure(trained, vae, flags):
    with pytest.raises(UserError, match=r"config\.data\.name: .* holds no images"):
        run(trained, *flags, *vae)


def losses(workdir):
    return [row["loss"] for row in read_metrics(workdir) if "loss" in row]


@pytest.mark.slow
def test_latents_train_alike_where_they_stream(trained, root, vae, folder):
    flags = (*vae, "--config.data.name=latents", f"--config.data.folder={folder}")
    streams = ("--config.data.resident_bytes=0", "--config.train.sample_every=0")
    run(root / "streams", CONFIG, "--task=pretrain", *NETWORK, *flags, *streams)
    np.testing.assert_allclose(losses(root / "streams"), losses(trained), rtol=1e-5)
    assert len(losses(trained)) >= 2


@pytest.mark.slow
def test_self_conditioning_and_self_distillation_train_on_latents(root, vae, folder):
    flags = (*vae, f"--config.data.folder={folder}")
    config = f"--config={CONFIGS / 'imagenet_latent.py'}:lightningdit_b+sc+csd+test"
    data = ("--config.data.name=latents", "--config.data.image_size=8")
    run(root / "csd", config, "--task=pretrain,sample", *data, *flags)
    row = read_metrics(root / "csd")[-1]
    assert all(np.isfinite(row[f"contrastive/{k}"]) for k in ("loss", "spread"))
    with np.load(root / "csd" / "samples.npz") as samples:
        assert samples["arr_0"].shape[1:] == (8, 8, 3)


def test_latents_of_another_autoencoder_are_refused(root, folder, trained):
    other = root / "other"
    shutil.copytree(root / "vae" / "autoencoder", other)
    path = other / "config.json"
    content = json.loads(path.read_text())
    content["autoencoder"]["scaling_factor"] = 0.5
    path.write_text(json.dumps(content))
    vae = f"--config.autoencoder.folder={other}"
    data = ("--config.data.name=latents", f"--config.data.folder={folder}")
    with pytest.raises(UserError, match="not the autoencoder that made the latents"):
        run(root / "new", CONFIG, "--task=pretrain", *NETWORK, vae, *data)
    with pytest.raises(UserError, match="not the autoencoder that made the latents"):
        run(trained, "--task=sample", vae)
    with pytest.raises(UserError, match=r"config\.encode\.folder: .* something else"):
        encode_digits(folder.parent, (vae,))


def test_a_run_stays_with_its_latents(root, vae, folder, trained):
    scaled = root / "scaled_again"
    shutil.copytree(folder, scaled / "latents")
    encode_digits(scaled, vae)
    data = ("--config.data.name=latents", f"--config.data.folder={scaled / 'latents'}")
    with pytest.raises(UserError, match="trained on other latents"):
        run(trained, "--task=pretrain", *vae, *data)
    with pytest.raises(UserError, match=r"config\.autoencoder\.scale: 3\.0"):
        run(trained, "--task=sample", *vae, "--config.autoencoder.scale=3")


@pytest.mark.slow
def test_flips_need_the_mirrored_images(root, vae):
    workdir = root / "plain"
    flags = ("--config.encode.mirrored=False", "--config.encode.dtype=float32")
    encode_digits(workdir, vae, *flags)
    source = sources.load("latents", "test", folder=str(workdir / "latents"))
    assert source.read_rows([0]).shape == (1, 1, 4, 4, 8)
    train = (CONFIG, "--task=pretrain", *NETWORK, *vae, "--config.data.name=latents")
    with pytest.raises(UserError, match=r"config\.train\.flip"):
        run(workdir, *train)
    # WORKDIR/latents is found without a word.
    run(workdir, *train, "--config.train.flip=False", "--config.train.sample_every=0")
    assert np.isfinite(losses(workdir)).all()


def test_what_cannot_be_encoded_is_one_line(root, vae, folder, tmp_path):
    for flags, message in [
        ((CONFIG, *IMAGES), "need their autoencoder"),
        ((CONFIG, *vae, "--config.data.name=digits"), r"config\.data\.channels"),
        ((CONFIG, *vae, *IMAGES, "--config.data.image_size=9"), "image_size"),
        (
            (CONFIG, *vae, *IMAGES, f"--config.encode.folder={root}"),
            r"config\.encode\.folder: .* something else",
        ),
        (
            (
                CONFIG,
                *vae,
                "--config.data.name=latents",
                f"--config.data.folder={folder}",
            ),
            "latents already",
        ),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            run(tmp_path / "run", "--task=encode", *flags)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "latents").exists()


def test_moments_that_float16_cannot_hold_are_refused(root, vae, monkeypatch):
    moments = encode._moments

    def large(*args):
        return 1e6 * moments(*args)

    monkeypatch.setattr(encode, "_moments", large)
    with pytest.raises(UserError, match=r"config\.encode\.dtype: .* not finite"):
        encode_digits(root / "large", vae)
