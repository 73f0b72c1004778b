"""`ddae_jax.load`: from a folder to features, samples and clean images."""

import subprocess
import sys
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.features.encode import example_noise
from ddae_jax.settings import schema
from ddae_jax.tasks import export, import_weights
from tests.tools import golden_values
from tests.tools.experiments import experiment_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported folder of the small golden UNet, for images of 8x8."""
    root = tmp_path_factory.mktemp("loading")
    state = golden_values.state(golden_values.load("unet_small")[0])
    safetensors.numpy.save_file(state, root / "weights.safetensors")
    config = schema.default()
    with config.unlocked():
        config.import_weights.update(
            path=str(root / "weights.safetensors"), process="ddpm", image_size=8
        )
        config.export.path = str(root / "hub")
    export.run(import_weights.run(experiment_of(config, root / "w")))
    return root / "hub"


@pytest.fixture(scope="module")
def model(folder):
    return ddae_jax.load(folder, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def test_features(model, images):
    assert model.taps == ("out_1", "out_2", "out_3", "out_4")
    assert model.image_shape == (8, 8, 3)
    features = model.features(images, tap="out_2", noise_level=0.1)
    assert features.shape == (6, 64) and features.dtype == np.float32
    as_floats = images.astype(np.float32) / 127.5 - 1
    same = model.features(as_floats, tap="out_2", noise_level=0.1)
    np.testing.assert_allclose(same, features, rtol=1e-5, atol=1e-5)
    # One image at a time: neither the batch nor its filling plays a role.
    first = model.features(images[:1], tap="out_2", noise_level=0.1)
    np.testing.assert_allclose(first, features[:1], rtol=1e-5, atol=1e-5)
    other = model.features(images, tap="out_2", noise_level=0.1, seed=1)
    assert np.abs(other - features).max() > 1e-4


def test_denoise_is_the_network_at_that_noise_level(model, images):
    clean = jnp.float32(images) / 127.5 - 1
    noise = example_noise(jax.random.key(0), jnp.arange(6), (8, 8, 3))
    process = model.denoiser.process
    time = jnp.full(6, 100, jnp.float32)
    level = float(process.noise_level(time)[0])
    x_t = process.add_noise(clean, noise, time)
    expected = jax.jit(model.denoiser.x0)(model.params, x_t, time)
    ours = model.denoise(np.asarray(clean + level * noise), level)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_samples_depend_on_seed_and_index_alone(model):
    samples = model.sample(6, steps=2)
    assert samples.shape == (6, 8, 8, 3) and samples.dtype == np.uint8
    np.testing.assert_array_equal(samples, model.sample(6, steps=2))
    few = model.sample(4, steps=2)
    assert np.abs(few.astype(int) - samples[:4]).max() <= 1
    assert (model.sample(4, seed=1, steps=2) != few).any()


def test_bad_arguments_are_one_line(model, images):
    floats = images.astype(np.float32)
    for call, reason in [
        (lambda: model.features(images, "out_9", 0.1), "tap: unknown 'out_9'"),
        (lambda: model.features(images, "out_1", 0.0), "noise_level is 0.0"),
        (lambda: model.features(images[0], "out_1", 0.1), "images: shape"),
        (lambda: model.features(images[:0], "out_1", 0.1), "images: shape"),
        (lambda: model.features(images[:, :4], "out_1", 0.1), "images: shape"),
        (lambda: model.features(floats, "out_1", 0.1), r"must be in \[-1, 1\]"),
        (lambda: model.features(images.astype(int), "out_1", 0.1), "type int64"),
        (lambda: model.denoise(images, 0.1), "noisy: type uint8"),
        (lambda: model.denoise(floats * np.nan, 0.1), "must be finite"),
        (lambda: model.sample(0), "n is 0"),
        (lambda: model.sample(1, label=3), "has 0 classes"),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            call()
        assert "\n" not in str(error.value)


def test_bad_folders_are_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        ddae_jax.load(tmp_path / "none")
    with pytest.raises(UserError, match="neither an exported folder"):
        ddae_jax.load(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        ddae_jax.load(tmp_path)
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=r"data\.json is missing"):
        ddae_jax.load(tmp_path)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json is not JSON"):
        ddae_jax.load(tmp_path)
    (tmp_path / "data.json").write_text((folder / "data.json").read_text())
    for text, reason in [
        ("{}", "not the config of a run"),
        (config.replace('"unet"', '"yunet"'), "unknown 'yunet'"),
        (config.replace('"channels": 32', '"channels": 64'), "misshapen"),
    ]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=reason) as error:
            ddae_jax.load(tmp_path)
        assert "\n" not in str(error.value)


def test_import_is_cheap():
    code = "import sys, ddae_jax; assert 'jax' not in sys.modules; ddae_jax.load"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        ddae_jax.loads  # noqa: B018


def test_loading_says_nothing(pretrained_copy):
    code = f"import ddae_jax; ddae_jax.load({str(pretrained_copy)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    # grain's own, where jaxlib is older than its profiler wants.
    said = [line for line in done.stderr.splitlines() if "Grain multi" not in line]
    assert not said and not done.stdout


def test_a_model_shows_itself_in_one_line(model):
    shown = repr(model)
    assert "unet under" in shown and "8x8x3" in shown and len(shown) < 120


def test_the_package_says_what_it_has():
    import ddae_jax

    assert set(dir(ddae_jax)) >= {"load", "Model", "UserError", "__version__"}
    assert metadata.version("ddae_jax") == ddae_jax.__version__
    assert ddae_jax.UserError is UserError
