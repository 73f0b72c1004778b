"""Checkpoints in PyTorch's form come in, and go out again, unchanged."""

import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy

import ddae_jax
from ddae_jax import main
from ddae_jax.errors import UserError
from ddae_jax.settings import command_line, saved, schema
from ddae_jax.tasks import export, import_weights
from ddae_jax.weights import families, torch_layout
from tests.tools import golden_values
from tests.tools.experiments import experiment_of

NO_TORCH = "torch is not installed: pip install ddae_jax[torch]"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason=NO_TORCH)


def import_config(path, **fields):
    config = schema.default()
    with config.unlocked():
        config.import_weights.update({"path": str(path), **fields})
    return config


def golden_file(folder, name):
    """The weights of a golden network as a safetensors file."""
    state = golden_values.state(golden_values.load(name)[0])
    path = folder / f"{name}.safetensors"
    safetensors.numpy.save_file(state, path)
    return path, state


@pytest.fixture(scope="module")
def of_torch(torch, tmp_path_factory):
    """A user's torch network, its file, and the workdir of the command line."""
    from tests.tools import torch_unet

    folder = tmp_path_factory.mktemp("torch")
    torch.manual_seed(0)
    network, other = torch_unet.UNet().eval(), torch_unet.UNet()
    path = folder / "model_99.pth"
    torch.save(torch_unet.official_checkpoint(network, other), path)
    workdir = folder / "workdir"
    main.run(
        [
            "main",
            "--task=import",
            f"--config.import_weights.path={path}",
            "--config.import_weights.process=ddpm",
            "--config.import_weights.image_size=16",
            f"--workdir={workdir}",
        ]
    )
    return network, path, workdir


def test_torch_network_agrees_with_its_import(torch, of_torch):
    network, _, workdir = of_torch
    noisy = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
    time = np.array([0.011, 0.6], np.float32)
    with torch.no_grad():
        theirs = network(
            torch.from_numpy(noisy.transpose(0, 3, 1, 2)), torch.tensor(time)
        )
    trained = experiment_of(saved.read(workdir), workdir).trained()
    ours = jax.jit(trained.denoiser.network.apply)(
        {"params": trained.params}, noisy, time
    )
    error = golden_values.relative_error(ours, golden_values.nhwc(theirs.numpy()))
    assert error < 1e-4


def test_import_to_export_to_load_is_bitwise(of_torch, tmp_path):
    network, _, workdir = of_torch
    config = saved.read(workdir)
    (workdir / "probe.json").write_text(
        json.dumps(
            {
                "step": 0,
                "data": "digits",
                "chosen": {"tap": "out_2", "noise_level": 0.1, "test": 0.9512},
            }
        )
    )
    (workdir / "fid.json").write_text(
        json.dumps(
            {
                "step": 0,
                "fid": 3.456,
                "distance": "Frechet distance",
                "features": "a classifier",
                "protocol": {"sample_count": 5000},
            }
        )
    )
    config.export.path = str(tmp_path / "hub")
    export.run(experiment_of(config, workdir))
    for model in (ddae_jax.load(tmp_path / "hub"), ddae_jax.load(workdir)):
        names = families.FAMILIES["unet"].names(model.denoiser.network)
        again = torch_layout.to_torch(model.params, names)
        state = network.state_dict()
        assert again.keys() == state.keys()
        for name, array in again.items():
            np.testing.assert_array_equal(array, state[name].numpy(), err_msg=name)
    card = (tmp_path / "hub" / "README.md").read_text()
    for part in (
        "702,499",
        "model_99.pth",
        "95.12 %",
        "Frechet distance | 3.46 (5,000 samples, features of a classifier)",
        'tap="out_2"',
    ):
        assert part in card


def test_an_official_export_is_loaded_strictly_by_torch(torch, of_torch, tmp_path):
    from safetensors.torch import load_file

    from tests.tools import torch_unet

    network, _, workdir = of_torch
    config = saved.read(workdir)
    config.export.update({"path": str(tmp_path / "hub"), "format": "official"})
    export.run(experiment_of(config, workdir))
    again = torch_unet.UNet().eval()
    again.load_state_dict(load_file(tmp_path / "hub" / "model.safetensors"))
    images, time = torch.ones(1, 3, 16, 16), torch.tensor([0.3])
    with torch.no_grad():
        assert torch.equal(again(images, time), network(images, time))


def test_model_weights_on_request(torch, of_torch, tmp_path):
    _, path, _ = of_torch
    given = dict(process="edm", image_size=16, weights="model")
    config = import_config(path, **given)
    experiment = import_weights.run(experiment_of(config, tmp_path))
    trained = torch.load(path, weights_only=True)["MODEL"]
    expected = trained["module.nn_model.final.bias"].numpy()
    ours = experiment.trained().params["final"]["bias"]
    np.testing.assert_array_equal(ours, expected)


def test_time_scale_of_uvit(tmp_path):
    path, _ = golden_file(tmp_path, "uvit_small")
    for given, expected in [({}, 999.0), ({"time_scale": 1.0}, 1.0)]:
        config = import_config(path, heads=4, **given)
        new = import_weights.run(experiment_of(config, tmp_path / f"w{expected}"))
        assert new.settings.network.time_scale == expected
    path, _ = golden_file(tmp_path, "dit_small")
    with pytest.raises(UserError, match="time_scale is given"):
        import_weights.run(
            experiment_of(import_config(path, heads=4, time_scale=1.0), tmp_path / "w")
        )


def test_autoencoder_is_written_beside(tmp_path):
    path, state = golden_file(tmp_path, "vae_small")
    import_weights.run(experiment_of(import_config(path), tmp_path / "w"))
    target = tmp_path / "w" / "autoencoder"
    found = safetensors.numpy.load_file(target / "model.safetensors")
    assert sum(a.size for a in found.values()) == sum(a.size for a in state.values())
    fields = json.loads((target / "config.json").read_text())["autoencoder"]
    assert fields["widths"] == [32, 64]


def test_what_no_tensor_shows_is_asked_for(tmp_path):
    for name, given, asked in [
        ("unet_small", {}, "give process"),
        ("unet_small", dict(process="ddpm"), "give image_size"),
        ("edm2_e_small", {}, "give weight_normalization"),
        ("dit_small", {}, "give heads"),
        ("uvit_small_cond", dict(heads=4), "give null_class"),
        ("dit_small", dict(heads=4, null_class=True), "null_class is given"),
        ("dit_small", dict(heads=4, image_size=64), "image_size is 64"),
        ("dit_small", dict(heads=4, process="flow"), "predict the variance"),
        ("dit_small", dict(heads=4, family="resnet"), "config.import_weights.family"),
    ]:
        path, _ = golden_file(tmp_path, name)
        with pytest.raises(UserError, match=asked) as error:
            import_weights.run(
                experiment_of(import_config(path, **given), tmp_path / "w")
            )
        assert "\n" not in str(error.value)
        assert not (tmp_path / "w" / "checkpoints").exists()


def test_wrong_family_and_changed_tensors_are_listed(tmp_path):
    path, state = golden_file(tmp_path, "unet_small")
    given = dict(process="ddpm", image_size=16)
    for family in families.FAMILIES:
        if family != "unet":
            extra = dict(weight_normalization=True) if family == "edm2" else {}
            config = import_config(path, family=family, **given, **extra)
            with pytest.raises(UserError, match=r"missing|no SongUNet"):
                import_weights.run(experiment_of(config, tmp_path / "w"))
    state["final.weights"] = state.pop("final.weight")
    state["norm.bias"] = state["norm.bias"][:-1]
    safetensors.numpy.save_file(state, path)
    with pytest.raises(UserError) as error:
        import_weights.run(experiment_of(import_config(path, **given), tmp_path / "w"))
    for part in ("missing: final.weight;", "surplus: final.weights", "norm.bias (31,)"):
        assert part in str(error.value)


def test_imported_weights_are_probed_on_any_data(of_torch):
    _, _, workdir = of_torch
    words = [f"--workdir={workdir}", "--task=probe", "--config.data.name=cifar10"]
    config = command_line.parse(["main", *words], main.define_flags).settings
    assert (config.data.name, config.network.channels) == ("cifar10", 32)


def test_no_second_import_into_a_workdir(tmp_path):
    path, _ = golden_file(tmp_path, "dit_small")
    import_weights.run(experiment_of(import_config(path, heads=4), tmp_path / "w"))
    with pytest.raises(UserError, match="has checkpoints already"):
        import_weights.run(experiment_of(import_config(path, heads=4), tmp_path / "w"))


def test_mistakes_in_paths_are_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"config\.import_weights\.path: there is no file"
    ):
        import_weights.run(
            experiment_of(import_config(tmp_path / "none.pth"), tmp_path)
        )
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match=r"pipe\.pth: not a regular file but a named"):
        import_weights.run(
            experiment_of(import_config(tmp_path / "pipe.pth"), tmp_path)
        )
    (tmp_path / "weights.h5").write_bytes(b"?")
    with pytest.raises(UserError, match=r"files of \.h5 are not known"):
        import_weights.run(
            experiment_of(import_config(tmp_path / "weights.h5"), tmp_path)
        )
    config = schema.default()
    with pytest.raises(UserError, match=r"config\.export\.path: name a folder"):
        export.run(experiment_of(config, tmp_path))
    config.export.path = str(tmp_path)
    with pytest.raises(UserError, match="holds other files"):
        export.run(experiment_of(config, tmp_path))
