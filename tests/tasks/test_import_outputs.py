"""What was imported computes what the published code computes, and goes out again."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

import ddae_jax
from ddae_jax.errors import UserError
from ddae_jax.experiment import autoencoder
from ddae_jax.runtime import checkpoint, parallel
from ddae_jax.settings import saved, schema
from ddae_jax.settings.autoencoder import AutoencoderSettings
from ddae_jax.tasks import export, import_weights
from ddae_jax.weights import families, folder
from tests.tools import golden_networks, golden_values
from tests.tools.experiments import experiment_of
from tests.tools.golden_networks import GOLDEN

pytestmark = pytest.mark.slow

DENOISERS = [name for name in GOLDEN if name != "vae_small"]


@dataclasses.dataclass(frozen=True)
class Imported:
    """A golden network in a workdir, by the task import."""

    name: str
    workdir: pathlib.Path

    @property
    def trained(self):
        return experiment_of(saved.read(self.workdir), self.workdir).trained()


def import_file(path, workdir, **fields):
    config = schema.default()
    with config.unlocked():
        config.import_weights.update({"path": str(path), **fields})
    import_weights.run(experiment_of(config, workdir))


def import_golden(name, root):
    state = golden_values.state(golden_values.load(name)[0])
    path = root / f"{name}.safetensors"
    safetensors.numpy.save_file(state, path)
    import_file(path, root / "w", **GOLDEN[name].given)
    return Imported(name, root / "w")


# Compiling these takes longest.
LONG = ("edm_ddpmpp_small", "edm_ncsnpp_small", "unet_small_bigup", "edm2_e_small")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
        for name in DENOISERS
    ],
)
def imported(request, tmp_path_factory):
    return import_golden(request.param, tmp_path_factory.mktemp(request.param))


def outputs(name, denoiser, params):
    """Key of a golden output -> ours, on the golden inputs."""
    _, arrays = golden_values.load(name)
    images = golden_values.nhwc(arrays["in/x"])
    if GOLDEN[name].family == "songunet":  # golden is what is around it, too
        sigma, augment = arrays["in/sigma"], arrays["in/aug"]

        def denoise(params, images, sigma, augment):
            output = denoiser.output(params, images, sigma, augment_labels=augment)
            return denoiser.process.x0(output, images, sigma)

        denoise = jax.jit(denoise)
        return {
            "out/denoised": denoise(params, images, sigma, augment),
            "out/denoised_noaug": denoise(params, images, sigma, 0 * augment),
        }
    inputs = images, arrays["in/t"], arrays.get("in/y"), arrays.get("in/aug")
    return {"out/y": jax.jit(denoiser.network.apply)({"params": params}, *inputs)}


def check_outputs(name, found):
    _, arrays = golden_values.load(name)
    for key, ours in found.items():
        theirs = golden_values.nhwc(arrays[key])
        assert golden_values.relative_error(ours, theirs) < 1e-5, key


def export_to(workdir, target, form):
    config = saved.read(workdir)
    config.export.path, config.export.format = str(target), form
    export.run(experiment_of(config, workdir))


def test_imports_compute_what_the_published_code_computes(imported):
    golden = GOLDEN[imported.name]
    config = saved.read(imported.workdir)
    names = config.network.name, config.process.name
    assert names == (golden.family, golden.process)
    for time in schema.build(config).process.probe_times:
        schema.build(config).process.official_time(time)
    # NVlabs' sampler does not clip.
    if golden.family == "songunet":
        assert config.sampler.clip is False
    trained = imported.trained
    found = outputs(imported.name, trained.denoiser, trained.params)
    check_outputs(imported.name, found)


def test_official_exports_are_bitwise_and_come_in_again(imported, tmp_path):
    trained = imported.trained
    hub = tmp_path / "hub"
    export_to(imported.workdir, hub, "official")
    _, state = golden_networks.network_of(imported.name)
    found = folder.read_tensors(hub / folder.FILE)
    golden_networks.check_same({key: found[key] for key in state}, state)
    assert found.keys() - state.keys() == GOLDEN[imported.name].buffers.keys()
    assert "load_state_dict" in (hub / "README.md").read_text()
    # What no tensor shows is told by config.json beside.
    import_file(hub / folder.FILE, tmp_path / "again")
    again = Imported(imported.name, tmp_path / "again").trained
    assert again.denoiser == trained.denoiser
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)
    first, second = (
        saved.read(path) for path in (imported.workdir, tmp_path / "again")
    )
    assert first.sampler == second.sampler


def test_an_imported_autoencoder_computes_what_diffusers_computes(tmp_path):
    workdir = import_golden("vae_small", tmp_path).workdir
    # And again, out of the folder that the first import left.
    import_file(workdir / autoencoder.NAME / folder.FILE, tmp_path / "again")
    _, arrays = golden_values.load("vae_small")
    images = golden_values.nhwc(arrays["in/x"])
    for found in (workdir, tmp_path / "again"):
        latents, params = autoencoder.load(
            AutoencoderSettings(), "float32", found / autoencoder.NAME, (8, 8, 4)
        )
        network = latents.autoencoder

        @jax.jit
        def apply(params, network=network):
            variables = {"params": params}
            mean, log_variance = network.apply(variables, images, method="encode")
            decoded = network.apply(variables, mean, method="decode")
            return {"mean": mean, "logvar": log_variance, "decoded": decoded}

        check_outputs(
            "vae_small", {f"out/{key}": ours for key, ours in apply(params).items()}
        )


@pytest.mark.parametrize("form", ["official", "flax"])
def test_a_denoiser_of_latents_goes_out_with_its_autoencoder(form, tmp_path):
    for name in ("dit_small", "vae_small"):
        workdir = import_golden(name, tmp_path).workdir
    hub, again = tmp_path / "hub", tmp_path / "again"
    export_to(workdir, hub, form)
    import_file(hub / folder.FILE, again)
    models = [ddae_jax.load(path) for path in (workdir, hub, again)]
    for model in models[1:]:
        assert model.latents == models[0].latents
        for part in ("params", "autoencoder"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(model, part),
                getattr(models[0], part),
            )
    if form == "official":
        _, state = golden_networks.network_of("vae_small")
        found = folder.read_tensors(hub / autoencoder.NAME / folder.FILE)
        golden_networks.check_same(found, state)
        card = (hub / "README.md").read_text()
        assert "DiT(input_size=8, " in card and "AutoencoderKL(in_channels=3" in card


def test_trained_weights_of_edm2_are_projected_and_its_average_is_as_it_was(tmp_path):
    """Training keeps kernels of configuration E normalised from its first step on."""
    workdir = import_golden("edm2_e_small", tmp_path).workdir
    trained = experiment_of(saved.read(workdir), workdir).trained()
    ema_shapes = trained.denoiser.parameter_shapes(trained.image_shape)
    shapes = {"params": ema_shapes, "ema": ema_shapes}
    shardings = parallel.state_shardings(trained.mesh, shapes)
    with checkpoint.manager(workdir) as checkpoints:
        state = checkpoint.restore_part(checkpoints, 0, shapes, shardings)
    _, tensors = golden_networks.network_of("edm2_e_small")
    kernel = tensors["down.0.res.conv1.weight"]
    norm = np.sqrt(np.square(kernel, dtype=np.float64).mean((1, 2, 3), keepdims=True))
    for part, expected in [("params", kernel / (1e-4 + norm)), ("ema", kernel)]:
        ours = state[part]["down_0_0"]["conv1"]["kernel"]
        theirs = expected.transpose(2, 3, 1, 0)
        assert golden_values.relative_error(ours, theirs) < 1e-6
    jax.tree.map(np.testing.assert_array_equal, state["ema"], trained.params)
    # The function stays: the 1e-4 alone counts twice.
    found = outputs("edm2_e_small", trained.denoiser, state["params"])["out/y"]
    _, arrays = golden_values.load("edm2_e_small")
    theirs = golden_values.nhwc(arrays["out/y"])
    assert golden_values.relative_error(found, theirs) < 1e-2


def test_what_an_export_tells_is_not_given_again(tmp_path):
    workdir, hub = import_golden("dit_small", tmp_path).workdir, tmp_path / "hub"
    data = json.loads((workdir / "data.json").read_text())
    data["class_names"] = [f"class {label}" for label in range(10)]
    (workdir / "data.json").write_text(json.dumps(data))
    export_to(workdir, hub, "flax")
    path = hub / folder.FILE
    with pytest.raises(UserError, match=r"heads is given, but config\.json") as error:
        import_file(path, tmp_path / "again", heads=4)
    assert "\n" not in str(error.value)
    import_file(path, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "data.json").read_text()) == data
    (hub / "config.json").unlink()
    with pytest.raises(UserError, match=r"have our own names: the config\.json"):
        import_file(path, tmp_path / "third")


def test_networks_without_a_published_form_go_out_as_ours_alone(
    pretrained_copy, tmp_path, monkeypatch
):
    """The error comes before anything is written."""
    families_without = {
        name: family for name, family in families.FAMILIES.items() if name != "unet"
    }
    monkeypatch.setattr(families, "FAMILIES", families_without)
    with pytest.raises(UserError, match="UNet has no published form") as error:
        export_to(pretrained_copy, tmp_path / "hub", "official")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hub").exists()
    export_to(pretrained_copy, tmp_path / "hub", "flax")
    ddae_jax.load(tmp_path / "hub")


def test_a_network_that_was_trained_here_goes_out_under_the_published_names(
    pretrained_copy, tmp_path
):
    export_to(pretrained_copy, tmp_path / "hub", "official")
    found = folder.read_tensors(tmp_path / "hub" / folder.FILE)
    assert "image_proj.weight" in found
    ours, again = ddae_jax.load(pretrained_copy), ddae_jax.load(tmp_path / "hub")
    jax.tree.map(np.testing.assert_array_equal, ours.params, again.params)
