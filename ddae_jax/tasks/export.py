"""Writes the EMA weights as a folder for a model hub: weights, config and card."""

import pathlib
import shutil

import flax.linen as nn
from absl import logging

from ddae_jax.errors import UserError
from ddae_jax.experiment import DATA, Experiment, autoencoder
from ddae_jax.experiment.trained import Trained
from ddae_jax.runtime import parallel, processes
from ddae_jax.runtime.files import read_json, write_json
from ddae_jax.settings import plain, saved
from ddae_jax.weights import families, folder, published

# Sections of the config that rebuild the denoiser and its sampler.
SECTIONS = ("network", "process", "sampler", "dtype", "autoencoder")

_LOADING = """```python
import ddae_jax
model = ddae_jax.load("{folder}")
images = ...  # uint8 or floats in [-1, 1], of shape [n, {shape}]
features = model.features(images, tap="{tap}", noise_level={noise_level:.3g})
samples = model.sample(16)
```"""
_PUBLISHED = """In PyTorch, with the published code ({code}):

```python
from safetensors.torch import load_file
network = {constructor}
network.load_state_dict(load_file("{folder}/{file}"))
```"""


def run(experiment: Experiment) -> None:
    """Writes model.safetensors, config.json, data.json and README.md; of a denoiser of
    latents, also the folder autoencoder.

    config.export.format says how the tensors are named and laid out: "flax" as ours,
    "official" as in the state dict that the published PyTorch code loads strictly.
    `ddae_jax.load` and the task import read either.

    Raises:
      UserError: no checkpoint; config.export.path is not given, or has files that are
        not of an earlier export; the network has no published form.
    """
    given = experiment.settings.export.path
    processes.on_first(lambda: _check(given))
    trained = experiment.trained()
    params = parallel.on_host(trained.params)
    of_autoencoder = parallel.on_host(trained.autoencoder)
    target = pathlib.Path(given)
    processes.on_first(
        lambda: _export(experiment, target, trained, params, of_autoencoder)
    )


def _export(
    experiment: Experiment,
    target: pathlib.Path,
    trained: Trained,
    params: dict,
    of_autoencoder: dict | None,
) -> None:
    official = experiment.settings.export.format == "official"
    network = trained.denoiser.network
    if official:
        families.of_network(network)  # an error, if any, before anything is written
    target.mkdir(parents=True, exist_ok=True)
    _write(target, official, network, params, trained.image_shape)
    everything = plain.of_settings(experiment.settings)
    everything["autoencoder"]["folder"] = ""  # it lies beside
    write_json(target / saved.FILE, {key: everything[key] for key in SECTIONS})
    data = experiment.read_json(DATA) | {"step": trained.step}
    write_json(target / DATA, data)
    if trained.latents is not None:
        beside, latents = target / autoencoder.NAME, trained.latents
        beside.mkdir(exist_ok=True)
        shape = latents.image_shape
        _write(beside, official, latents.autoencoder, of_autoencoder, shape)
        found = autoencoder.find(experiment.settings.autoencoder, experiment.workdir)
        shutil.copyfile(found / saved.FILE, beside / saved.FILE)
    card = _card(experiment, target, data, trained)
    (target / "README.md").write_text(card)
    logging.info("exported step %d to %s", trained.step, target)


def _write(
    target: pathlib.Path,
    official: bool,
    network: nn.Module,
    params: dict,
    image_shape: tuple[int, int, int],
) -> None:
    if official:
        folder.write_published(target, network, params, image_shape)
    else:
        folder.write_parameters(target, params)


def _check(given: str) -> None:
    """Raises a UserError where config.export.path cannot be the folder to write."""
    if not given:
        raise UserError("config.export.path: name a folder for the weights")
    target = pathlib.Path(given)
    if target.exists() and not target.is_dir():
        raise UserError(f"config.export.path: {given} is a file, not a folder")
    if (
        target.is_dir()
        and any(target.iterdir())
        and not (target / folder.FILE).exists()
    ):
        raise UserError(
            f"config.export.path: {given} holds other files: name a new folder"
        )


def _card(
    experiment: Experiment,
    target: pathlib.Path,
    data: dict,
    trained: Trained,
) -> str:
    """The model card, in Markdown, with the hub's header."""
    denoiser = trained.denoiser
    count = denoiser.parameter_count(data["image_shape"])
    image_shape = trained.seen_shape
    shape = ", ".join(map(str, image_shape))
    images = data["train_images"]
    rows = {
        "network": experiment.settings.names["network"],
        "process": experiment.settings.names["process"],
        "parameters": f"{count:,}",
        "images": " x ".join(map(str, image_shape)),
    }
    if images is None:
        rows["imported from"] = data["name"]
    else:
        rows["data"] = f"{data['name']}, {images:,} training images"
    rows["optimiser steps"] = f"{data['step']:,}"
    taps = list(denoiser.network.tap_paths())
    tap, noise_level = taps[len(taps) // 2], 0.1
    chosen = _measured(experiment, "probe.json", data["step"]).get("chosen") or {}
    if chosen:
        probe = experiment.read_json("probe.json")
        tap, noise_level = chosen["tap"], chosen["noise_level"]
        rows["linear probe"] = (
            f"{100 * chosen['test']:.2f} % on the test images of {probe['data']} (tap "
            f"{tap}, noise level {noise_level:.3g}, chosen on held-out images)"
        )
    measured = _measured(experiment, "fid.json", data["step"])
    if "fid" in measured:
        rows[measured["distance"]] = (
            f"{measured['fid']:.2f} ({measured['protocol']['sample_count']:,} samples, "
            f"features of {measured['features']})"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    loading = _LOADING.format(
        folder=target.name, shape=shape, tap=tap, noise_level=noise_level
    )
    loading += _in_pytorch(experiment, target.name, trained)
    return (
        "---\nlibrary_name: ddae_jax\ntags:\n- diffusion\n- self-supervised\n---\n\n"
        f"# {experiment.settings.name}\n\nA denoising diffusion autoencoder: it draws "
        "images, and its intermediate activations are features.\nThe weights are the "
        f"moving average of training.\n\n|  |  |\n|---|---|\n{table}\n\n{loading}\n\n"
        f"Taps: {', '.join(taps)}.\n"
    )


def _in_pytorch(experiment: Experiment, name: str, trained: Trained) -> str:
    """How the published code loads the tensors, where they are named as there."""
    if experiment.settings.export.format != "official":
        return ""
    parts = [(trained.denoiser.network, trained.image_shape, folder.FILE)]
    if trained.latents is not None:
        file = f"{autoencoder.NAME}/{folder.FILE}"
        parts.append((trained.latents.autoencoder, trained.latents.image_shape, file))
    text = ""
    for network, image_shape, file in parts:
        loader = published.published_class(network, image_shape)
        text += "\n\n" + _PUBLISHED.format(
            code=loader.code, constructor=loader, folder=name, file=file
        )
    return text


def _measured(experiment: Experiment, name: str, step: int) -> dict:
    """What a task measured on the exported checkpoint, or nothing."""
    content = read_json(experiment.workdir / name) or {}
    return content if content.get("step") == step else {}
